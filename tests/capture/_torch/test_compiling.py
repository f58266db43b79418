"""Canaries for graphs and compiled calls."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from inspector import INSPECTOR, graphs_of, look
from torch import fx, nn
from torch._dynamo import config
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.flop_counter import FlopCounterMode

from fxkernels.capture import _torch

X = torch.ones(3)


# --- graphs -----------------------------------------------------------------------------------------------------------------------------


def test_compiled_with_own_frames_uses_no_frame_that_was_compiled_for_another_call_with_the_backend() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x.sin()

    backend = CompileCounter()  # type: ignore[no-untyped-call]
    for count in (1, 2):
        compiled = _torch.compiled_with_own_frames(function, backend)
        compiled(X), compiled(X)
        assert backend.frame_count == count


def test_unwrapped_backend_finds_the_one_that_compiled_with_own_frames_was_given() -> None:
    INSPECTOR.examine = lambda frame, x: found.append(_torch.unwrapped_backend(_torch.current_backend(frame))[0])
    found: list[Any] = []
    backend = CompileCounter()  # type: ignore[no-untyped-call]
    _torch.compiled_with_own_frames(lambda x: look(x.sin()), backend)(X)
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


def test_unwrapped_backend_is_what_was_passed_to_compile() -> None:
    def mine(gm: fx.GraphModule, example_inputs: list[Any], **options: Any) -> Any:
        return gm.forward

    found = []
    for options in (None, {"inner": "eager"}):
        INSPECTOR.examine = lambda frame, *args: _torch.unwrapped_backend(_torch.current_backend(frame))[0]
        torch.compile(lambda x: look(x), backend=mine, options=options)(X)
        found.append(INSPECTOR.found[-1])
    assert found == [mine, mine]


def test_unwrapped_backend_comes_with_the_wrapper_that_holds_the_options() -> None:
    def mine(gm: fx.GraphModule, example_inputs: list[Any], **options: Any) -> Any:
        return gm.forward

    INSPECTOR.examine = lambda frame, *args: _torch.unwrapped_backend(_torch.current_backend(frame))[1]
    torch.compile(lambda x: look(x), backend=mine, options={"inner": "eager"})(X)
    assert INSPECTOR.found[-1].kwargs == {"options": {"inner": "eager"}}


def test_compiled_module_is_the_one_that_was_compiled():
    def backend(gm, example_inputs):
        return gm.forward

    module = nn.Linear(2, 2)
    found = _torch.compiled_module(torch.compile(module, backend=backend))
    assert found is not None
    assert found[0] is module
    assert _torch.unwrapped_backend(found[1])[0] is backend
    assert _torch.compiled_module(module) is None
