"""Canaries: the private APIs by which one call is captured by itself, and recognised when it comes again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from fxkernels.capture import _torch


class Captured(Exception):
    """Raised instead of running the captured graph."""


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * 2


def asking(sizes: list[Any]) -> Any:
    def backend(gm: Any, inputs: list[Any]) -> Any:
        sizes.append(any(isinstance(value, torch.SymInt) for value in inputs))

        def run(*_: Any) -> Any:
            raise Captured

        return run

    return _torch.compiled_alone("call_doubling", backend)


def captured(function: Any, module: nn.Module, x: torch.Tensor) -> None:
    with _torch.by_itself(), pytest.raises(Captured):
        function(module, tuple(_torch.fakes_of(_torch.fake_mode(), [x])), {})


def test_compiled_alone_runs_nothing_and_its_second_size_is_dynamic() -> None:
    sizes: list[Any] = []
    function, module = asking(sizes), Doubling()
    for rows in (3, 4, 5, 6):
        captured(function, module, torch.ones(rows))
    assert module.calls == 0
    assert sizes == [False, True]


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_by_itself_captures_in_transforms_modes_and_traces() -> None:
    def capture(x: torch.Tensor) -> torch.Tensor:
        captured(asking([]), Doubling(), x)
        return x.sum()

    torch.func.grad(capture)(torch.ones(3))
    torch.func.vmap(capture)(torch.ones(2, 3))
    torch.fx.experimental.proxy_tensor.make_fx(capture)(torch.ones(3))
    torch.jit.trace(capture, torch.ones(3))
    with torch.inference_mode():
        capture(torch.ones(3))
    with torch.compiler.set_stance("force_eager"):
        capture(torch.ones(3))
    with _torch.fake_mode():
        capture(torch.ones(3))


def test_by_itself_keeps_the_default_device_and_gives_function_modes_back() -> None:
    class Noting(TorchFunctionMode):
        seen = 0

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen += 1
            return function(*args, **(kwargs or {}))

    with torch.device("meta"), Noting() as mode:
        with _torch.by_itself():
            assert torch.ones(3).device.type == "meta"
            assert mode.seen == 0
        assert torch.ones(3).device.type == "meta"
        assert mode.seen > 0
    assert torch.ones(3).device.type == "cpu"


def test_fakes_of_tensors_keep_gradients_kinds_and_common_storages() -> None:
    base = torch.ones(4, 4)
    tensors = [nn.Parameter(torch.ones(2)), base[:2], base[2:], torch.ones(3, requires_grad=True) * 2]
    with _torch.by_itself():
        parameter, one, other, result = _torch.fakes_of(_torch.fake_mode(), tensors)
    assert isinstance(parameter, nn.Parameter)
    assert one.untyped_storage()._cdata == other.untyped_storage()._cdata
    assert other.storage_offset() == 8
    assert result.requires_grad


def test_tensor_guard_sees_dtype_size_stride_gradient_and_kind() -> None:
    fits = _torch.tensor_guard([torch.ones(2, 3)])
    assert fits(torch.zeros(2, 3))
    others = [torch.ones(2, 3).double(), torch.ones(3, 3), torch.ones(3, 2).T, torch.ones(2, 3, requires_grad=True), None, 1]
    assert not any(fits(other) for other in (*others, nn.Parameter(torch.ones(2, 3)), torch.ones(2, 3, device="meta")))
    x = torch.ones(2)
    assert not _torch.tensor_guard([x, x])(x, x)


def test_state_guard_sees_grad_mode_and_autocast() -> None:
    fits = _torch.state_guard()
    assert fits()
    with torch.no_grad():
        assert not fits()
    with torch.autocast("cpu"):
        assert not fits()


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_outside_of_traces_nothing_is_recorded() -> None:
    def doubled(x: torch.Tensor) -> torch.Tensor:
        with _torch.outside_of_traces():
            x.exp()
        return x * 2

    assert "exp" not in str(torch.jit.trace(doubled, torch.ones(3)).graph)


def test_fake_mode_computes_nothing() -> None:
    mode = _torch.fake_mode()
    (fake,) = _torch.fakes_of(mode, [torch.ones(3)])
    with mode:
        assert (fake + torch.ones(3)).shape == (3,)
        assert type(fake + torch.ones(3)) is type(fake)
