"""The pipeline: its passes in order, what an observer sees, and what is verified."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from bracketings import build_layers, layers
from graphs import GraphBuilder, calls_of, computing, kept, named, norm_call, replaced
from hypothesis import given, settings
from torch import fx

from fxkernels.passes.layer_call import LayerCall
from fxkernels.passes.markers import markers_of
from fxkernels.passes.miss import Miss
from fxkernels.passes.pipeline import (
    Decide,
    EraseMarkers,
    FindMarked,
    InvalidGraphError,
    Pass,
    Pipeline,
    State,
    compiler,
    graph_modules,
)
from fxkernels.passes.plan import Decision


def two_norms() -> fx.GraphModule:
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    return build.module(norm_call(build, "second", build(torch.sin, norm_call(build, "first", x, weight)), weight))


def rewrites(*paths: str) -> Callable[[tuple[LayerCall, ...]], Callable[[LayerCall, Miss | None], Decision]]:
    """Decides that the calls of these paths are rewritten."""
    return lambda calls: lambda call, conflict: replaced(call, call.module) if call.site.path in paths else kept(call)


def ignore(state: State) -> None:
    """Records nothing."""


def statuses(state: State) -> dict[str, str]:
    return {call.key: decision.status for call, decision in state.plan}


def test_a_captured_graph_gets_the_kernels_that_were_decided() -> None:
    module = two_norms()
    x, weight = torch.randn(4, 8), torch.rand(8)
    expected = module(x, weight)
    state = compiler((), rewrites("first"), ignore)(module)
    assert statuses(state) == {"first#0": "rewritten", "second#0": "excluded"}
    assert computing(module.graph)[:2] == ["mul_1", "sin"]
    torch.testing.assert_close(module(x, weight), expected)


def test_without_editing_the_graph_ends_up_as_it_was_captured() -> None:
    module, unmarked = two_norms(), two_norms()
    calls_of(unmarked.graph)
    state = compiler((), rewrites("first"), ignore, edit=False)(module)
    assert statuses(state)["first#0"] == "rewritten"
    assert str(module.graph) == str(unmarked.graph)


def test_a_record_that_refuses_leaves_the_graph_without_kernels() -> None:
    module, unmarked = two_norms(), two_norms()
    calls_of(unmarked.graph)

    def refuse(state: State) -> None:
        raise LookupError("no kernel")

    with pytest.raises(LookupError):
        compiler((), rewrites("first"), refuse)(module)
    assert str(module.graph) == str(unmarked.graph)


def test_the_decider_gets_all_calls_of_the_graph_and_of_those_nested_in_it() -> None:
    inner = GraphBuilder()
    body = inner.module(norm_call(inner, "norm", inner.tensor("y", 4, 8), inner.tensor("weight", 8)))
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    build.root.body = body
    build.graph.get_attr("body")
    module = build.module(norm_call(build, "norm", x, weight))
    seen: list[str] = []

    def decider(calls: tuple[LayerCall, ...]) -> Callable[[LayerCall, Miss | None], Decision]:
        seen.extend(call.key for call in calls)
        return kept

    state = compiler((), decider, ignore)(module)
    assert seen == ["norm#0", "norm#1"]
    assert graph_modules(module) == (module, module.body)
    assert [call.module for call in state.calls] == [module, module.body]
    assert markers_of(module.body.graph) == []


def in_turns(graph: fx.Graph) -> bool:
    """Put the operations of two halves of a graph that are independent of each other in turns: one of the first, one of the second."""
    *operations, last = [node for node in graph.nodes if node.op in ("call_function", "call_method")]
    assert last.target is operator.add
    half = len(operations) // 2
    behind = operations[0].prev
    for node in [node for pair in zip(operations[:half], operations[half:], strict=True) for node in pair]:
        behind.append(node)
        behind = node
    graph.lint()
    return True


def test_calls_are_rewritten_in_a_graph_that_is_put_into_another_order_without_its_markers() -> None:
    build = GraphBuilder()
    x, y, weight = build.tensor("x", 4, 8), build.tensor("y", 4, 8), build.tensor("weight", 8)
    with build.layer("outer", x) as outer:
        outer.returns(norm_call(build, "outer.norm", x, weight))
    module = build.module(build(operator.add, outer.output, norm_call(build, "norm", y, weight)))
    values = (torch.randn(4, 8), torch.randn(4, 8), torch.rand(8))
    expected = module(*values)
    state = compiler((), rewrites("outer.norm", "norm"), ignore, reorder=in_turns)(module)
    assert statuses(state) == {"outer#0": "excluded", "outer.norm#0": "rewritten", "norm#0": "rewritten"}
    around, inside, _ = state.calls
    assert inside.parent is around
    assert len(computing(module.graph)) == 3
    torch.testing.assert_close(module(*values), expected)


def test_the_operations_of_a_call_are_those_between_its_markers_whatever_the_order_afterwards() -> None:
    build = GraphBuilder()
    x, y, weight = build.tensor("x", 4, 8), build.tensor("y", 4, 8), build.tensor("weight", 8)
    module = build.module(build(operator.add, norm_call(build, "one", x, weight), norm_call(build, "other", y, weight)))
    marked = FindMarked()(State(module))
    erased = EraseMarkers(in_turns)(marked)
    for before, after in zip(marked.calls, erased.calls, strict=True):
        assert set(before.region) == set(after.region)
        assert list(after.region) == [node for node in module.graph.nodes if node in after.inside]
        assert after.between


@settings(max_examples=60)
@given(layers())
def test_calls_that_all_miss_leave_the_graph_that_nobody_marked(items: list) -> None:
    texts = []
    for markers in (True, False):
        module, _ = build_layers(items, markers=markers)
        compiler((), rewrites(), ignore)(module)
        texts.append((module.code, str(module.graph), [dict(node.meta) | {"example_value": None} for node in module.graph.nodes]))
    assert texts[0] == texts[1]


# --- observing --------------------------------------------------------------------------------------------------------------------------


def test_an_observer_is_shown_what_was_captured_and_the_state_after_each_pass() -> None:
    seen: list[tuple[str | None, int, int, int, int]] = []

    def observe(step: Pass | None, state: State) -> None:
        graph = state.module.graph
        seen.append((step and step.name, len(markers_of(graph)), len(computing(graph)), len(state.calls), len(state.plan)))

    compiler((), rewrites("first"), ignore, observer=observe)(two_norms())
    assert seen == [
        (None, 4, 17, 0, 0),
        ("find-marked", 4, 17, 2, 0),
        ("erase-markers", 0, 17, 2, 0),
        ("find-fused", 0, 17, 2, 0),
        ("drop-outputs", 0, 17, 2, 0),
        ("decide", 0, 17, 2, 2),
        ("record", 0, 17, 2, 2),
        ("rewrite", 0, 10, 2, 2),
    ]


def test_passes_are_values() -> None:
    assert FindMarked() == FindMarked()
    assert Decide(kept) == Decide(kept) != Decide(rewrites())
    assert len({EraseMarkers(), EraseMarkers()}) == 1


# --- verifying --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spoil:
    """Does something to the graph that no pass may do."""

    spoil: Callable[[fx.Graph], object]
    name: ClassVar[str] = "spoil"

    def __call__(self, state: State) -> State:
        self.spoil(state.module.graph)
        return state


def spoiled(spoil: Callable[[fx.Graph], object], *, observed: bool) -> None:
    passes = compiler((), rewrites("first"), ignore).passes
    Pipeline((*passes, Spoil(spoil)), (lambda step, state: None) if observed else None)(two_norms())


SPOILED: dict[str, tuple[Callable[[fx.Graph], object], str]] = {
    "kernel behind its reader": (lambda graph: named(graph, "sin").append(named(graph, "mul_1")), "sin reads mul_1, which comes later"),
    "kernel before its input": (
        lambda graph: setattr(named(graph, "mul_1"), "args", (named(graph, "sin"),)),
        "mul_1 reads sin, which comes later",
    ),
    "kernel without an example value": (lambda graph: named(graph, "mul_1").meta.clear(), "mul_1 without an example value"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_took_a_regions_place_is_verified_in_every_run(name: str) -> None:
    spoil, fault = SPOILED[name]
    with pytest.raises(InvalidGraphError, match=f"the pass spoil has left an invalid graph: {fault}"):
        spoiled(spoil, observed=False)


def test_a_marker_that_is_left_is_a_fault_in_every_run() -> None:
    with pytest.raises(InvalidGraphError, match="the pass find-marked has left an invalid graph: the marker enter is left"):
        Pipeline((FindMarked(),))(two_norms())


ONLY_OBSERVED: dict[str, tuple[Callable[[fx.Graph], object], str]] = {
    "another node without an example value": (lambda graph: named(graph, "sin").meta.clear(), "sin without an example value"),
    "another node behind its reader": (lambda graph: named(graph, "to_2").append(named(graph, "sin")), "used before it has been defined"),
    "a new node without an example value": (
        lambda graph: graph.output_node().prepend(graph.call_function(operator.neg, (named(graph, "sin"),))),
        "neg without an example value",
    ),
}


@pytest.mark.parametrize("name", ONLY_OBSERVED)
def test_every_node_is_verified_where_somebody_observes(name: str) -> None:
    spoil, fault = ONLY_OBSERVED[name]
    with pytest.raises(InvalidGraphError, match=f"(?s)the pass spoil has left an invalid graph: .*{fault}"):
        spoiled(spoil, observed=True)


def test_a_fault_is_told_from_a_fault_of_the_model_and_says_where_to_look() -> None:
    with pytest.raises(InvalidGraphError, match="(?s)a fault of the pass, not of the model. FXKERNELS_DUMP=directory writes the graph"):
        Pipeline((FindMarked(),))(two_norms())


def test_the_pass_that_spoils_the_graph_is_named_even_if_a_later_one_does_not_mind() -> None:
    passes = compiler((), rewrites(), ignore).passes
    first = (*passes[:2], Spoil(lambda graph: named(graph, "sin").meta.clear()), *passes[2:])
    with pytest.raises(InvalidGraphError, match="the pass spoil has left"):
        Pipeline(first, lambda step, state: None)(two_norms())


def test_a_state_is_replaced_and_not_changed() -> None:
    state = State(two_norms())
    found = FindMarked()(state)
    assert (len(state.calls), len(found.calls)) == (0, 2)
    assert replace(found, calls=()).module is state.module
