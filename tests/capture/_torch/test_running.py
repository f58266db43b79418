"""Canaries for functions that run on fake tensors, and on real ones in the middle of a compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from inspector import X
from torch import fx, nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fxkernels.capture import _torch


def test_run_on_fakes_computes_nothing() -> None:
    with FakeTensorMode():
        x = torch.empty(3, 4, requires_grad=True)
    y = _torch.run_on_fakes(lambda x: x @ x.t(), (x,))
    assert (isinstance(y, FakeTensor), y.shape, y.requires_grad) == (True, (3, 3), False)


def test_run_on_fakes_adds_no_guard() -> None:
    found = []

    def backend(gm: fx.GraphModule, example_inputs: list[Any]) -> Any:
        x = next(node.meta["example_value"] for node in gm.graph.nodes if isinstance(node.meta.get("example_value"), torch.Tensor))
        guards = len(x.fake_mode.shape_env.guards)
        _torch.run_on_fakes(lambda x: x if x.shape[0] == 17 else -x, (x,))
        found.append(len(x.fake_mode.shape_env.guards) - guards)
        return gm.forward

    torch.compile(lambda x: x.sin(), backend=backend, dynamic=True)(torch.ones(5))
    assert found == [0]


def test_run_on_fakes_without_a_fake_tensor_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="no input is a fake tensor"):
        _torch.run_on_fakes(lambda x: x, (X,))


def test_unlogged_fakes_raise_without_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def raising() -> int:
        before = len(caplog.records)
        with FakeTensorMode(), pytest.raises(RuntimeError):
            torch.ops.aten.mm.default(torch.ones(2, 2), torch.ones(3, 3))
        return len(caplog.records) - before

    with _torch.unlogged_fakes():
        assert raising() == 0
    assert raising() == 1


def test_call_on_fakes_compiles_without_data() -> None:
    class Big(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(1 << 20, 1 << 20, bias=False, device="meta")  # 4 TiB

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x)

    counter = CompileCounter()
    _torch.call_on_fakes(Big(), counter, (torch.empty(1, 1 << 20, device="meta"),), {})
    assert counter.frame_count == 1


def fakes(*shape: int) -> torch.Tensor:
    return FakeTensorMode(shape_env=ShapeEnv()).from_tensor(torch.empty(shape))


def test_watch_on_fakes_sees_what_is_written_and_what_is_foreign() -> None:
    with torch.library._scoped_library("fxtest_canary_out", "DEF") as library:
        library.define("fill(Tensor(a!) x) -> ()")
        library.impl("fill", lambda x: None, "Meta")
        x = fakes(3)
        seen = _torch.watch_on_fakes(lambda x, y: torch.ops.fxtest_canary_out.fill(x[1:]), (x, torch.empty_like(x)))
        assert (seen.written, seen.foreign, seen.error) == (frozenset({0}), ("fxtest_canary_out::fill",), None)


@pytest.mark.parametrize("ask", [lambda x: x.sum().item(), lambda x: x.nonzero()], ids=["value", "size"])
def test_a_value_cannot_be_asked_for_on_fakes_and_leaves_no_symbol_behind(ask: Callable[[torch.Tensor], Any]) -> None:
    x = fakes(3)
    seen = _torch.watch_on_fakes(ask, (x,))
    assert "depends on the values of its input" in str(seen.error)
    assert x.fake_mode.shape_env.pending_fresh_unbacked_symbols == []


def test_run_for_real_sees_no_mode_and_draws_no_random_number() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with FakeTensorMode(), torch.inference_mode():
        real = _torch.run_for_real(lambda: torch.rand(3))
    assert type(real) is torch.Tensor
    assert not real.is_inference()
    torch.testing.assert_close(torch.rand(2), expected)
