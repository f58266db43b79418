"""The gates of a region: for each, graphs that pass and graphs that miss."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F
from graphs import GraphBuilder, code, miss_of, norm_call, only_call, then

from fxkernels.passes.miss import Miss
from fxkernels.passes.region import external_inputs, why_not_replaceable


def test_norm_is_replaceable() -> None:
    build = GraphBuilder()
    y = norm_call(build, "norm", build.tensor("x", 4, 8), build.tensor("weight", 8))
    assert why_not_replaceable(only_call(build.finish(y))) is None


# --- graph_break ------------------------------------------------------------------------------------------------------------------------


def test_call_without_an_end_is_a_graph_break() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    with build.layer("layer", x):
        y = build(torch.sin, x)
    assert code(why_not_replaceable(only_call(build.finish(y)))) == "graph_break"


# --- what is in nested graphs -----------------------------------------------------------------------------------------------------------


def run_body(body: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def with_body(function: Callable[..., object], *args: object) -> Miss | None:
    """The miss of a layer that hands its argument to a graph of its own, as a checkpointed region does."""
    inner = GraphBuilder()
    y = inner.tensor("y", 4, 8)
    body = inner.module(inner(function, y, *args))
    build = GraphBuilder()
    x = build.tensor("x", 4, 8)
    with build.layer("layer", x) as layer:
        build.root.body = body
        layer.returns(build(run_body, build.graph.get_attr("body"), x))
    module = build.module(layer.output)
    return why_not_replaceable(only_call(module.graph))


def test_random_numbers_drawn_in_a_nested_graph_count() -> None:
    assert code(with_body(F.dropout, 0.1, True)) == "random"


def test_harmless_nested_graph_is_none() -> None:
    assert with_body(torch.sin) is None


# --- escape -----------------------------------------------------------------------------------------------------------------------------


def test_intermediate_value_that_is_used_outside_escapes() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    with build.layer("layer", x) as layer:
        inner = build(torch.sin, x)
        layer.returns(build(torch.cos, inner))
    miss = why_not_replaceable(only_call(build.finish(build(torch.add, inner, layer.output))))
    assert miss is not None
    assert str(miss) == "escape: sin is computed inside the call and used outside by add"


def test_output_may_be_used_outside_and_inside() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    with build.layer("layer", x) as layer:
        first = build(torch.sin, x)
        layer.returns(first, build(torch.cos, first))
    assert why_not_replaceable(only_call(build.finish(build(torch.exp, first)))) is None


# --- output_metadata --------------------------------------------------------------------------------------------------------------------


def test_output_that_is_a_view_of_an_argument_is_a_miss() -> None:
    miss = miss_of(lambda b, x: b.method("view", x, 32))
    assert miss is not None
    assert str(miss) == "output_metadata: the output view is a view of an input; a kernel's would not be"


def test_output_that_is_a_view_of_a_new_tensor_is_none() -> None:
    assert miss_of(lambda b, x: b.method("view", b(torch.sin, x), 32)) is None


def test_argument_handed_through_as_the_only_output_is_a_miss() -> None:
    assert code(miss_of(lambda b, x: then(x, b(torch.sin, x)))) == "output_metadata"


def test_argument_handed_through_beside_a_new_tensor_is_none() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    with build.layer("layer", x) as layer:
        y = build(torch.sin, x)
        layer.returns(y, x)
    assert why_not_replaceable(only_call(build.finish(y))) is None


def test_call_that_returns_no_tensor_is_a_miss() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    with build.layer("layer", x) as layer:
        build(torch.sin, x)
        layer.returns()
    assert code(why_not_replaceable(only_call(build.finish(x)))) == "output_metadata"


# --- state ------------------------------------------------------------------------------------------------------------------------------


def test_read_of_a_tensor_that_is_not_the_layers_is_a_miss() -> None:
    build = GraphBuilder()
    x, scale = build.tensor("x", 4), build.tensor("scale", 4)
    with build.layer("layer", x) as layer:
        layer.returns(build(torch.mul, x, scale))
    miss = why_not_replaceable(only_call(build.finish(layer.output)))
    assert miss is not None
    assert str(miss) == "state: it reads scale, which is neither an argument nor a tensor of the layer"


def test_read_of_a_tensor_of_the_layer_is_none() -> None:
    build = GraphBuilder()
    x, scale = build.tensor("x", 4), build.tensor("scale", 4)
    with build.layer("layer", x, tensors={"scale": scale}) as layer:
        layer.returns(build(torch.mul, x, scale))
    assert why_not_replaceable(only_call(build.finish(layer.output))) is None


def test_tensor_that_is_not_the_layers_may_not_be_handed_through() -> None:
    build = GraphBuilder()
    x, table = build.tensor("x", 4), build.tensor("table", 4)
    with build.layer("layer", x) as layer:
        layer.returns(build(torch.sin, x), table)
    assert code(why_not_replaceable(only_call(build.finish(*layer.outputs)))) == "state"


def test_size_of_an_argument_may_come_from_outside() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4, 8, dynamic=True)
    rows = build.method("size", x, 0)
    with build.layer("layer", x) as layer:
        layer.returns(build(torch.add, x, build(torch.zeros, rows, 1)))
    call = only_call(build.finish(layer.output))
    assert why_not_replaceable(call) is None
    assert external_inputs(call) == (x, rows)


def test_number_computed_from_sizes_of_arguments_may_come_from_outside() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4, 8, dynamic=True)
    half = build(operator.floordiv, build.method("size", x, 0), 2)
    with build.layer("layer", x) as layer:
        layer.returns(build(operator.mul, x, half))
    assert why_not_replaceable(only_call(build.finish(layer.output))) is None


def test_size_of_another_tensor_is_a_miss() -> None:
    build = GraphBuilder()
    x, other = build.tensor("x", 4, 8, dynamic=True), build.tensor("other", 5, 8, dynamic=True)
    rows = build.method("size", other, 0)
    with build.layer("layer", x) as layer:
        layer.returns(build(operator.mul, x, rows))
    assert code(why_not_replaceable(only_call(build.finish(layer.output)))) == "state"


def test_size_that_is_itself_an_argument_is_none() -> None:
    build = GraphBuilder()
    x, other = build.tensor("x", 4, 8, dynamic=True), build.tensor("other", 5, 8, dynamic=True)
    rows = build.method("size", other, 0)
    with build.layer("layer", x, rows) as layer:
        layer.returns(build(operator.mul, x, rows))
    assert why_not_replaceable(only_call(build.finish(layer.output))) is None


def test_external_inputs_are_the_marked_ones_first_each_once() -> None:
    build = GraphBuilder()
    x, unread, weight = build.tensor("x", 4), build.tensor("unread", 4), build.tensor("weight", 4)
    with build.layer("layer", x, unread, x, tensors={"weight": weight}) as layer:
        layer.returns(build(torch.mul, weight, x))
    assert external_inputs(only_call(build.finish(layer.output))) == (x, unread, weight)
