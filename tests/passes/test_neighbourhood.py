"""The operations around a call that a compiler might fuse with it, and the graph that is timed."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graphs import GraphBuilder, calls_of
from torch import fx

from fxkernels.passes.example_values import example
from fxkernels.passes.neighbourhood import LIMIT, Neighbours, is_store, may_be_fused
from fxkernels.passes.plan import Replacement
from fxkernels.passes.region import external_inputs


def names(nodes: tuple[fx.Node, ...]) -> list[str]:
    return [node.name for node in nodes]


def neighbours_of(graph: fx.Graph, number: int = 0) -> Any:
    return Neighbours(graph).of(calls_of(graph)[number])


def norm(build: GraphBuilder, path: str, x: fx.Node, weight: fx.Node) -> fx.Node:
    with build.layer(path, x, tensors={"weight": weight}) as call:
        call.returns(build(torch.mul, build(torch.rsqrt, x), weight))
    return call.output


def test_small_operations_before_and_after_a_call_belong_to_it_and_matrix_products_do_not() -> None:
    build = GraphBuilder()
    x, residual, weight, matrix = (
        build.tensor("x", 8, 8),
        build.tensor("residual", 8, 8),
        build.tensor("weight", 8),
        build.tensor("m", 8, 8),
    )
    added = build(operator.add, build(torch.matmul, x, matrix), residual)
    normed = norm(build, "norm", added, weight)
    active = build(F.silu, normed)
    found = neighbours_of(build.finish(build(torch.matmul, active, matrix), added))
    assert names(found.before) == ["add"]
    assert names(found.after) == ["silu"]
    assert names(found.inputs) == ["weight", "matmul", "residual"]
    assert names(found.outputs) == ["add", "silu"]


def test_a_residual_stream_that_also_passed_through_other_layers_is_not_computed_again() -> None:
    build = GraphBuilder()
    x, weight, matrix = build.tensor("x", 8, 8), build.tensor("weight", 8), build.tensor("m", 8, 8)
    stream = build(operator.add, x, x)
    inner = build(torch.matmul, norm(build, "first", stream, weight), matrix)
    later = build(operator.add, stream, inner)
    found = neighbours_of(build.finish(norm(build, "second", later, weight)), 1)
    assert names(found.before) == [later.name]
    assert stream in found.inputs


def test_what_waits_for_something_computed_from_the_output_is_not_after_the_call() -> None:
    build = GraphBuilder()
    x, weight, matrix = build.tensor("x", 8, 8), build.tensor("weight", 8), build.tensor("m", 8, 8)
    gate = norm(build, "gate", x, weight)
    found = neighbours_of(build.finish(build(operator.mul, gate, build(torch.matmul, gate, matrix))))
    assert found.after == ()
    assert found.outputs == (gate,)


def test_what_is_computed_after_the_call_but_not_from_it_may_be_waited_for() -> None:
    build = GraphBuilder()
    x, weight, matrix = build.tensor("x", 8, 8), build.tensor("weight", 8), build.tensor("m", 8, 8)
    gate = norm(build, "gate", x, weight)
    up = build(torch.matmul, x, matrix)
    product = build(operator.mul, gate, up)
    found = neighbours_of(build.finish(product))
    assert found.after == (product,)
    assert found.inputs == (x, weight, up)
    assert found.outputs == (product,)


def test_a_write_of_the_output_into_memory_that_was_there_belongs_to_the_call() -> None:
    build = GraphBuilder()
    x, weight, keys = build.tensor("x", 2, 8), build.tensor("weight", 8), build.tensor("keys", 16, 8)
    places = build(torch.argmax, build.tensor("scores", 2, 16), -1)
    normed = norm(build, "norm", x, weight)
    written = build.method("index_copy_", keys, 0, places, normed)
    found = neighbours_of(build.finish(build(torch.matmul, keys, build.tensor("m", 8, 8))))
    assert found.after == (written,)
    assert found.outputs == ()
    values = {node.name: torch.rand(example(node).shape) for node in found.inputs} | {"argmax": torch.tensor([3, 5])}
    found.graph(build.module())(*(values[node.name] for node in found.inputs))
    assert torch.equal(values["keys"][3], values["x"][0].rsqrt() * values["weight"])


@pytest.mark.parametrize("name", ["into a part of itself", "where a mask says", "for a gradient"])
def test_other_writes_are_no_stores(name: str) -> None:
    build = GraphBuilder()
    x, keys = build.tensor("x", 4, requires_grad=name == "for a gradient"), build.tensor("keys", 4)
    mask = build(torch.gt, keys, 0)
    write = {
        "into a part of itself": lambda: build.method("add_", keys, x),
        "where a mask says": lambda: build.method("index_put_", keys, (mask,), x),
        "for a gradient": lambda: build.method("copy_", keys, x),
    }[name]
    assert not is_store(write())
    assert is_store(build.method("copy_", build.tensor("memory", 4), build.tensor("values", 4)))


def test_what_reads_something_computed_beside_the_call_from_its_own_neighbour_is_not_after_it() -> None:
    build = GraphBuilder()
    x, weight, matrix = build.tensor("x", 8, 8), build.tensor("weight", 8), build.tensor("m", 8, 8)
    before = build(torch.neg, x)
    beside = build(torch.matmul, before, matrix)
    found = neighbours_of(build.finish(build(operator.add, norm(build, "norm", before, weight), beside)))
    # No loop that computes `before` can also have `beside`, for which somebody else has to read it first.
    assert found.before == (before,)
    assert found.after == ()


def test_a_neighbourhood_has_an_end() -> None:
    build = GraphBuilder()
    x, weight = build.tensor("x", 8, 8), build.tensor("weight", 8)
    value = x
    for _ in range(2 * LIMIT):
        value = build(torch.sin, value)
    value = norm(build, "norm", value, weight)
    for _ in range(2 * LIMIT):
        value = build(torch.cos, value)
    found = neighbours_of(build.finish(value))
    assert (len(found.before), len(found.after)) == (LIMIT, LIMIT)


def test_the_graph_of_a_neighbourhood_computes_what_the_model_does_there() -> None:
    build = GraphBuilder()
    x, y, weight = build.tensor("x", 4, 8), build.tensor("y", 4, 8), build.tensor("weight", 8)
    first = build(operator.getitem, build(torch.chunk, build(operator.add, x, y), 2, -1), 0)
    with build.layer("scale", first) as call:
        call.returns(build(torch.mul, first, 3))
    found = neighbours_of(build.finish(build(F.relu, call.output)))
    module = found.graph(fx.GraphModule(build.root, build.graph))
    values = {"x": torch.randn(4, 8), "y": torch.randn(4, 8)}
    (result,) = module(*(values[node.name] for node in found.inputs))
    torch.testing.assert_close(result, F.relu((values["x"] + values["y"])[:, :4] * 3))
    assert weight not in found.inputs


def test_a_kernel_takes_the_regions_place_in_the_graph_of_a_neighbourhood() -> None:
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    output = build(F.relu, norm(build, "norm", build(torch.neg, x), weight))
    graph = build.finish(output)
    found = neighbours_of(graph)

    def kernel(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x * 10 + weight

    module = found.graph(fx.GraphModule(build.root, graph), {found.call: Replacement(kernel, external_inputs(found.call))})
    values = {"x": torch.randn(4, 8), "weight": torch.rand(8)}
    (result,) = module(*(values[node.name] for node in found.inputs))
    torch.testing.assert_close(result, F.relu(-values["x"] * 10 + values["weight"]))


def test_neighbourhoods_of_equal_structure_are_told_from_others() -> None:
    build = GraphBuilder()
    x, weight, matrix = build.tensor("x", 8, 8), build.tensor("weight", 8), build.tensor("m", 8, 8)
    outputs = []
    for path, function in (("one", F.silu), ("two", F.silu), ("three", F.gelu)):
        normed = norm(build, path, build(torch.matmul, x, matrix), weight)
        outputs.append(build(function, normed))
    graph = build.finish(*outputs)
    one, two, three = (Neighbours(graph).of(call).structure for call in calls_of(graph))
    assert one == two
    assert one != three


@pytest.mark.parametrize(
    ("function", "arguments", "fused"),
    [
        (torch.add, 2, True),
        (operator.mul, 2, True),
        (operator.truediv, 2, True),
        (F.silu, 1, True),
        (torch.ops.aten.mul.Tensor, 2, True),
        (torch.sum, 1, True),
        (torch.matmul, 2, False),
        (operator.matmul, 2, False),
        (F.linear, 2, False),
        (F.scaled_dot_product_attention, 3, False),
        (torch.rand_like, 1, False),
        (F.dropout, 1, False),
        (operator.iadd, 2, False),
    ],
)
def test_what_may_be_fused(function: Callable[..., Any], arguments: int, fused: bool) -> None:
    build = GraphBuilder()
    node = build(function, *(build.tensor(f"x{n}", 8, 8) for n in range(arguments)))
    assert may_be_fused(node) is fused


def test_a_read_at_computed_places_is_no_neighbour_since_random_places_may_lie_outside() -> None:
    build = GraphBuilder()
    table, places = build.tensor("table", 8, 8), build(torch.argmax, build.tensor("x", 4, 8), -1)
    assert not may_be_fused(build(operator.getitem, table, places))
    assert not may_be_fused(build(F.embedding, places, table))
    assert may_be_fused(build(operator.getitem, table, (slice(None), slice(4))))


def test_a_wrapper_around_tensors_is_no_neighbour() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    build = GraphBuilder()
    node = build(torch.sin, build.tensor("x", 8, 8))
    assert may_be_fused(node)
    node.meta["example_value"] = TwoTensor(torch.ones(8, 8), torch.ones(8, 8))
    assert not may_be_fused(node)
