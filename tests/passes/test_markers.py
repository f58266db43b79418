"""Finding layer calls between their markers."""

from __future__ import annotations

from collections import Counter

import torch
from graphs import GraphBuilder, norm_call, only_call
from torch import fx

from fxkernels.passes.markers import enter, erase_markers, find_marked_calls, markers_of


def nested() -> fx.Graph:
    """A block that contains an attention with a rotary call, and then a norm."""
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    with build.layer("block", x) as block:
        with build.layer("block.attention", x) as attention:
            with build.layer("block.attention.rotary", x) as rotary:
                rotary.returns(build(torch.sin, x))
            attention.returns(build(torch.cos, rotary.output))
        block.returns(norm_call(build, "block.norm", attention.output, weight))
    return build.finish(block.output)


def test_graph_without_markers_has_no_calls() -> None:
    build = GraphBuilder(markers=False)
    assert find_marked_calls(build.finish(norm_call(build, "norm", build.tensor("x", 4, 8), build.tensor("weight", 8)))) == ()


def test_call_knows_what_goes_in_and_what_comes_out() -> None:
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    call = only_call(build.finish(y := norm_call(build, "norm", x, weight)))
    assert (call.args, call.kwargs, call.tensors, call.outputs) == ((x,), {}, {"weight": weight}, (y,))


def test_region_is_everything_between_the_markers_in_order() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    before = build(torch.sin, x)
    with build.layer("layer", before) as layer:
        first = build(torch.cos, before)
        second = build(torch.tan, first)
        layer.returns(second)
    call = only_call(build.finish(build(torch.exp, layer.output)))
    assert call.region == (first, second)


def test_region_of_an_outer_call_contains_the_operations_of_the_inner_calls_and_no_marker() -> None:
    graph = nested()
    outer, *inner = find_marked_calls(graph)
    assert outer.region == tuple(node for node in graph.nodes if node.op not in ("placeholder", "output") and node not in markers_of(graph))
    assert all(call.inside < outer.inside for call in inner)


def test_calls_come_in_the_order_in_which_they_begin() -> None:
    assert [call.site.path for call in find_marked_calls(nested())] == ["block", "block.attention", "block.attention.rotary", "block.norm"]


def test_parent_is_the_innermost_call_around() -> None:
    block, attention, rotary, norm = find_marked_calls(nested())
    assert [block.parent, attention.parent, rotary.parent, norm.parent] == [None, block, attention, block]


def test_ancestors_are_listed_innermost_first() -> None:
    block, attention, rotary, _ = find_marked_calls(nested())
    assert list(rotary.ancestors()) == [attention, block]


def test_calls_of_one_path_are_numbered() -> None:
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    for path in ("a", "b", "a"):
        x = norm_call(build, path, x, weight)
    assert [call.key for call in find_marked_calls(build.finish(x))] == ["a#0", "b#0", "a#1"]


def test_numbers_go_on_in_the_next_graph_of_one_capture() -> None:
    counts: Counter = Counter()
    keys = []
    for _ in range(2):
        build = GraphBuilder()
        graph = build.finish(norm_call(build, "norm", build.tensor("x", 4, 8), build.tensor("weight", 8)))
        keys += [call.key for call in find_marked_calls(graph, counts)]
    assert keys == ["norm#0", "norm#1"]


def test_each_owner_of_calls_has_numbers_of_its_own() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    for owner in ("mine", "yours"):
        with build.layer("layer", x, owner=owner) as layer:
            layer.returns(build(torch.sin, x))
    assert [call.key for call in find_marked_calls(build.finish(x))] == ["layer#0", "layer#0"]


def test_call_without_an_end_has_no_region_and_no_output() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    with build.layer("broken", x):
        y = build(torch.sin, x)
    call = only_call(build.finish(y))
    assert (call.complete, call.region, call.outputs) == (False, (), ())


def test_calls_inside_a_call_without_an_end_stand_on_their_own() -> None:
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    with build.layer("broken", x):
        y = norm_call(build, "norm", x, weight)
    _, norm = find_marked_calls(build.finish(y))
    assert (norm.parent, norm.outputs) == (None, (y,))


def test_end_of_an_outer_call_closes_those_that_lost_theirs() -> None:
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    with build.layer("outer", x) as outer:
        with build.layer("broken", x):
            y = build(torch.sin, x)
        outer.returns(y)
    z = norm_call(build, "norm", outer.output, weight)
    found = find_marked_calls(build.finish(z))
    assert [(call.site.path, call.complete, call.parent) for call in found] == [
        ("outer", True, None),
        ("broken", False, found[0]),
        ("norm", True, None),
    ]


def test_end_without_a_beginning_is_no_call() -> None:
    build = GraphBuilder()
    y = norm_call(build, "norm", build.tensor("x", 4, 8), build.tensor("weight", 8))
    graph = build.finish(y)
    graph.erase_node(next(node for node in graph.nodes if node.target is enter))
    assert find_marked_calls(graph) == ()


def test_without_its_markers_a_graph_is_the_one_that_nobody_marked() -> None:
    texts = []
    for markers in (True, False):
        build = GraphBuilder(markers=markers)
        x = build.tensor("x", 4, 8)
        with build.layer("block", x) as block:
            block.returns(norm_call(build, "block.norm", build(torch.sin, x), build.tensor("weight", 8)))
        graph = build.finish(block.output)
        assert erase_markers(graph) is markers
        texts.append((str(graph), [dict(node.meta) | {"example_value": None} for node in graph.nodes]))
    assert texts[0] == texts[1]
