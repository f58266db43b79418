"""Canaries for the observer of what Dynamo traces, and for what is read of a frame."""

from __future__ import annotations

from typing import Any

import torch
from inspector import INSPECTOR, Inspector, Layer, Outer, X, break_graph, graphs_for_any_settings, graphs_of, inspected, look
from torch._dynamo.testing import CompileCounter

from fxkernels.capture import _torch

# --- install ----------------------------------------------------------------------------------------------------------------------------


def test_install_tells_of_inlined_calls(inspector: Inspector) -> None:
    torch.compile(lambda x: look(x) + 1, backend="eager")(X)
    assert ("call", "call", True) in inspector.log


def test_install_tells_of_frames(inspector: Inspector) -> None:
    torch.compile(lambda x: x + 1, backend="eager")(X)
    assert inspector.log == [("frame", "frame", True)]


def test_install_tells_of_a_call_that_broke_the_graph(inspector: Inspector) -> None:
    torch.compile(lambda x: break_graph(x.sin()).cos(), backend="eager")(X)
    assert [entry for entry in inspector.log if entry[0] == "call"] == [("call", "call", False)]


def test_install_leaves_results_alone(inspector: Inspector) -> None:
    assert torch.equal(torch.compile(lambda x: look(x * 2) + 1, backend="eager")(X), X * 2 + 1)


# --- frames -----------------------------------------------------------------------------------------------------------------------------


def test_set_backend_gives_this_frame_to_another_one(inspector: Inspector) -> None:
    mine, other = CompileCounter(), CompileCounter()
    inspector.on_frame = lambda frame: _torch.set_backend(frame, other)
    torch.compile(lambda x: x + 1, backend=mine)(X)
    inspector.on_frame = None
    torch.compile(lambda x: x + 2, backend=mine)(X)
    assert (mine.frame_count, other.frame_count) == (1, 1)


def test_current_backend_is_the_frames() -> None:
    counter = CompileCounter()
    INSPECTOR.examine = lambda frame, *args: _torch.unwrapped_backend(_torch.current_backend(frame))[0]
    torch.compile(lambda x: look(x), backend=counter)(X)
    assert INSPECTOR.found == [counter]


def test_frame_code_is_that_of_the_function_that_calls() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return look(x)

    assert inspected(function, X, examine=lambda frame, *args: _torch.frame_code(frame)) is function.__code__


def test_frame_and_callers_go_up_to_the_compiled_frame() -> None:
    def inner(x: torch.Tensor) -> torch.Tensor:
        return look(x) + 1

    def outer(x: torch.Tensor) -> torch.Tensor:
        return inner(x)

    codes = inspected(outer, X, examine=lambda frame, *args: [_torch.frame_code(caller) for caller in _torch.frame_and_callers(frame)])
    assert codes == [inner.__code__, outer.__code__]


def test_frame_closure_is_that_of_the_compiled_function(inspector: Inspector) -> None:
    found: list[Any] = []

    def around(value: int) -> Any:
        return lambda x: x + value

    function = around(1)
    inspector.on_frame = lambda frame: found.append(_torch.frame_closure(frame))
    torch.compile(function, backend="eager")(X)
    torch.compile(lambda x: x + 1, backend="eager")(X)
    assert [list(map(id, cells)) for cells in found] == [list(map(id, function.__closure__)), []]


def test_local_variable_finds_arguments() -> None:
    def function(x: torch.Tensor, number: int) -> torch.Tensor:
        return look(x)

    found = inspected(function, X, 7, examine=lambda frame, *args: _torch.constant(_torch.local_variable(frame, "number")))
    assert found == 7


def test_local_variable_finds_what_an_inner_function_closes_over() -> None:
    def function(x: torch.Tensor, number: int) -> torch.Tensor:
        def inner() -> int:
            return number

        look(x)
        return x + inner()

    assert inspected(function, X, 7, examine=lambda frame, *args: _torch.constant(_torch.local_variable(frame, "number"))) == 7


def test_local_variable_is_none_without_a_value() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        look(x)
        later = x + 1
        return later

    assert inspected(function, X, examine=lambda frame, *args: _torch.local_variable(frame, "later")) is None


def test_local_variable_installs_no_guard() -> None:
    assert graphs_for_any_settings(lambda frame: _torch.local_variable(frame, "settings")) == 1


def test_module_stack_names_the_modules_around() -> None:
    stack = inspected(Outer(), X, examine=lambda frame, *args: _torch.module_stack(frame))
    assert stack[-1][1] is Layer
    assert stack[-1][0] in ("L['self'].layers.0", "L['self'].layers[0]", "L['self']._modules['layers']._modules['0']")


# --- variables --------------------------------------------------------------------------------------------------------------------------


def a_marker(values: tuple[Any, ...]) -> None:
    """Computes nothing."""


def test_add_marker_puts_a_node_into_the_graph() -> None:
    INSPECTOR.examine = lambda frame, x: _torch.add_marker(frame, a_marker, ((_torch.graph_argument(x),),))
    (graph,) = graphs_of(lambda x: look(x.sin()).cos(), X)
    (marker,) = (node for node in graph.graph.nodes if node.target is a_marker)
    assert [node.target for node in marker.args[0]] == ["sin"]
