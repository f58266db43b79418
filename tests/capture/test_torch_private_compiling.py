"""Canaries for what `_torch` does with graphs, compiled modules, fake tensors and inner compilers; see `test_torch_private.py`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from inspector import INSPECTOR, Inspector, graphs_of, look
from torch import fx, nn
from torch._dynamo import config
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.flop_counter import FlopCounterMode

from fxkernels.capture import _torch


@pytest.fixture(autouse=True)
def inspector() -> Iterator[Inspector]:
    _torch.install(INSPECTOR)
    INSPECTOR.reset()
    yield INSPECTOR
    INSPECTOR.reset()


X = torch.ones(3)


# --- graphs -----------------------------------------------------------------------------------------------------------------------------


def a_marker(values: tuple[Any, ...]) -> None:
    """Computes nothing."""


def test_add_marker_puts_a_node_into_the_graph() -> None:
    INSPECTOR.examine = lambda frame, x: _torch.add_marker(frame, a_marker, ((_torch.graph_argument(x),),))
    (graph,) = graphs_of(lambda x: look(x.sin()).cos(), X)
    (marker,) = (node for node in graph.graph.nodes if node.target is a_marker)
    assert [node.target for node in marker.args[0]] == ["sin"]


def test_compiled_apart_uses_no_frame_that_was_compiled_for_another_call_with_the_backend() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x.sin()

    backend = CompileCounter()  # type: ignore[no-untyped-call]
    for count in (1, 2):
        compiled = _torch.compiled_apart(function, backend)
        compiled(X), compiled(X)
        assert backend.frame_count == count


def test_unwrapped_backend_finds_the_one_that_compiled_apart_was_given() -> None:
    INSPECTOR.examine = lambda frame, x: found.append(_torch.unwrapped_backend(_torch.current_backend(frame))[0])
    found: list[Any] = []
    backend = CompileCounter()  # type: ignore[no-untyped-call]
    _torch.compiled_apart(lambda x: look(x.sin()), backend)(X)
    assert found == [backend]


def test_graph_break_reason_says_why_and_where() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        x = x.sin()
        print(end="")
        return x.cos()

    reasons = [_torch.graph_break_reason(graph) for graph in graphs_of(function, X)]
    assert len(reasons) == 2
    assert reasons[0] is not None
    assert "\n" not in reasons[0]
    assert f"{__file__}:{function.__code__.co_firstlineno + 2}" in reasons[0]


def test_graph_break_reason_is_none_where_the_frame_returned() -> None:
    (graph,) = graphs_of(lambda x: x.sin(), X)
    assert _torch.graph_break_reason(graph) is None


def test_compile_key_tells_graphs_apart() -> None:
    keys = []

    def backend(gm: fx.GraphModule, example_inputs: list[Any]) -> Any:
        keys.append((_torch.compile_key(), _torch.compile_key()))
        return gm.forward

    compiled = torch.compile(lambda x: x.sin(), backend=backend, dynamic=False)
    compiled(X)
    compiled(torch.ones(4))
    assert all(first == again for first, again in keys)
    assert len({first for first, _ in keys}) == 2
    assert _torch.compile_key() is None


# --- calls of compiled modules ------------------------------------------------------------------------------------------------------------


def test_entry_runs_one_function_and_is_traced_as_the_other() -> None:
    def call(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    def traced(x: torch.Tensor) -> torch.Tensor:
        return x - 1

    both = _torch.entry(call, traced)
    compiled = torch.compile(lambda x: both(x), backend="eager", fullgraph=True)
    assert (both(X)[0].item(), compiled(X)[0].item()) == (2, 0)


def test_compiling_around_is_true_while_an_outer_compile_is_in_force() -> None:
    seen = []

    @torch.compiler.disable(recursive=False)
    def call(x: torch.Tensor) -> torch.Tensor:
        seen.append(_torch.compiling_around())
        return x

    torch.compile(lambda x: call(x.sin()).cos(), backend="eager")(X)
    assert (seen, _torch.compiling_around()) == ([True], False)


def test_operations_are_watched_within_traces_dual_levels_and_dispatch_modes_only() -> None:
    seen: dict[str, bool] = {}

    def note(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        def call(x: torch.Tensor) -> torch.Tensor:
            seen[name] = _torch.operations_are_watched()
            return x + 1

        return call

    fx.symbolic_trace(note("symbolic_trace"))
    make_fx(note("make_fx"))(X)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.trace")
        torch.jit.trace(note("torch.jit.trace"), (X,), check_trace=False)
    with forward_ad.dual_level():
        note("dual level")(X)
    with FlopCounterMode(display=False):
        note("dispatch mode")(X)
    assert all(seen.values()), seen
    assert not _torch.operations_are_watched()
    torch.func.grad(lambda x: note("torch.func")(x).sum())(X)
    assert not seen["torch.func"]


def test_cause_of_is_what_the_backend_raised() -> None:
    def backend(gm: fx.GraphModule, example_inputs: list[Any]) -> Any:
        raise KeyError("mine")

    with pytest.raises(Exception) as caught:  # noqa: PT011  which one it is, is the point
        torch.compile(lambda x: x.sin(), backend=backend)(X)
    assert isinstance(_torch.cause_of(caught.value), KeyError)
    error = ValueError("no backend around it")
    assert _torch.cause_of(error) is error


def test_on_recompile_limit_tells_the_backend_and_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[Any, str]] = []
    monkeypatch.setattr(_torch.compiling, "_recompile_limit_listeners", [])
    _torch.on_recompile_limit(lambda backend, function: heard.append((_torch.unwrapped_backend(backend)[0], function)))
    counter = CompileCounter()

    def grows(x: torch.Tensor, number: int) -> torch.Tensor:
        return x + number

    compiled = torch.compile(grows, backend=counter, dynamic=False)
    with torch._dynamo.config.patch(recompile_limit=2):
        for number in range(4):
            compiled(X, number)
    backend, function = heard[0]
    assert backend is counter
    assert "grows" in function


# --- fake tensors and inner compilers -----------------------------------------------------------------------------------------------------


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


@pytest.mark.skipif(not hasattr(config, "canonicalize_output_graph_node_order"), reason="Dynamo orders its graphs since torch 2.14")
def test_in_canonical_order_is_the_order_in_which_dynamo_leaves_a_graph() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (y.sin() + x.cos()) * x.sin()

    (traced,) = graphs_of(function, X, X)
    assert not _torch.in_canonical_order(traced.graph)
    with config.patch(canonicalize_output_graph_node_order=True):
        torch._dynamo.reset()
        (ordered,) = graphs_of(function, X, X)
        assert str(ordered.graph) != str(traced.graph)
        assert _torch.in_canonical_order(traced.graph)
    assert [node.target for node in traced.graph.nodes if node.op != "placeholder"] == [
        node.target for node in ordered.graph.nodes if node.op != "placeholder"
    ]


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


def test_a_backend_is_initialized_whenever_it_is_resolved_if_torch_says_so() -> None:
    class Backend:
        resolved = 0

        def _dynamo_backend_init(self) -> None:
            self.resolved += 1

        def __call__(self, gm: fx.GraphModule, example_inputs: list[Any]) -> Any:
            return gm.forward

    backend = Backend()
    for _ in range(2):
        torch.compile(nn.ReLU(), backend=backend)
    assert backend.resolved == (2 if _torch.INITIALIZES_BACKENDS else 0)


def test_inner_compiler_is_the_one_that_compile_would_call() -> None:
    counter = CompileCounter()
    (graph,) = graphs_of(lambda x: x.sin(), X)
    compiled = _torch.inner_compiler(counter, None, None)(graph, [X])
    assert torch.equal(compiled(X)[0], X.sin())
    assert counter.frame_count == 1


def test_inner_compiler_takes_the_mode_and_options_of_inductor() -> None:
    compiler = _torch.inner_compiler("inductor", None, {"epilogue_fusion": False})
    assert compiler.config["epilogue_fusion"] is False


def test_is_eager_is_true_of_the_eager_backend_only() -> None:
    assert [_torch.is_eager(inner) for inner in ("eager", lookup_backend("eager"), "aot_eager", CompileCounter())] == [
        True,
        True,
        False,
        False,
    ]


def test_is_wrapper_subclass_is_true_of_tensors_around_tensors_only() -> None:
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(X)
    assert [_torch.is_wrapper_subclass(value) for value in (TwoTensor(X, X), X, nn.Parameter(X), fake, 3)] == [
        True,
        False,
        False,
        False,
        False,
    ]


# --- what a kernel asks -----------------------------------------------------------------------------------------------------------------


def test_as_if_compiling_shows_the_way_of_a_compiler() -> None:
    with _torch.as_if_compiling():
        assert torch.compiler.is_compiling()
    assert not torch.compiler.is_compiling()
