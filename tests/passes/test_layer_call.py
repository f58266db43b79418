"""What a layer call says of itself."""

from __future__ import annotations

import pytest
import torch
from graphs import GraphBuilder, call_of, calls_of, norm_call

from fxkernels.passes.layer_call import LayerCall


def interleaved() -> LayerCall:
    """sin and add belong to the call, cos and tan stand between them, neg before and exp behind."""
    build = GraphBuilder()
    x, y = build.tensor("x", 4), build.tensor("y", 4)
    build(torch.neg, x)
    sin = build(torch.sin, x)
    build(torch.cos, y)
    tan = build(torch.tan, y)
    add = build(torch.add, sin, tan)
    module = build.module(build(torch.exp, add))
    return call_of(module.graph, "call", (x, tan, x), (sin, add), add, x)


def test_what_stands_between_the_operations_of_a_call_is_told_in_order() -> None:
    assert [node.name for node in interleaved().between] == ["cos", "tan"]


def test_nothing_stands_between_the_operations_of_a_marked_call() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4, 8)
    with build.layer("outer", x) as outer:
        outer.returns(build(torch.sin, norm_call(build, "inner", x, build.tensor("weight", 8))))
    assert [call.between for call in calls_of(build.finish(outer.output))] == [(), ()]


def test_an_empty_region_has_nothing_between() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    assert call_of(build.finish(x), "identity", (x,), (), x).between == ()


def test_first_and_last_are_operations_of_the_region() -> None:
    call = interleaved()
    assert (call.first.name, call.last.name) == ("sin", "add")


def test_inputs_are_told_once_and_in_order() -> None:
    call = interleaved()
    assert [node.name for node in call.marked_inputs] == ["x", "tan"]
    assert [node.name for node in call.outside_values] == ["x", "tan"]


def test_outputs_that_are_handed_through_are_not_computed() -> None:
    call = interleaved()
    assert [node.name for node in call.outputs] == ["add", "x"]
    assert [node.name for node in call.computed_outputs] == ["add"]


def test_module_is_the_one_whose_graph_has_the_call() -> None:
    call = interleaved()
    assert call.module.graph is call.graph


def test_a_graph_without_a_module_is_an_error_that_names_the_call() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    with pytest.raises(ValueError, match="the graph of identity#0 is that of no module"):
        _ = call_of(build.finish(x), "identity", (x,), (), x).module
