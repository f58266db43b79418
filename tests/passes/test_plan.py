"""Planning: which calls are rewritten, and which are covered by another."""

from __future__ import annotations

import pytest
import torch
from graphs import GraphBuilder, calls_of, norm_call
from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from fxkernels.passes.layer_call import LayerCall
from fxkernels.passes.miss import Miss
from fxkernels.passes.plan import Decision, Plan, Replacement, plan_rewrites

PATHS = ("block", "block.mlp", "block.mlp.act", "block.norm", "final")


def graph() -> fx.Graph:
    """block(mlp(act), norm), final."""
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    with build.layer("block", x) as block:
        with build.layer("block.mlp", x) as mlp:
            with build.layer("block.mlp.act", x) as act:
                act.returns(build(torch.sin, x))
            mlp.returns(build(torch.cos, act.output))
        block.returns(norm_call(build, "block.norm", mlp.output, weight))
    return build.finish(norm_call(build, "final", block.output, weight))


CALLS = calls_of(graph())


def kernel(*inputs: torch.Tensor) -> torch.Tensor:
    raise AssertionError("planning runs no kernel")


def decider(*rewritten: str, asked: list[str] | None = None):
    def decide(call: LayerCall, conflict: Miss | None) -> Decision:
        if asked is not None:
            asked.append(call.site.path)
        if call.site.path in rewritten:
            return Decision("rewritten", replacement=Replacement(kernel, call.marked_inputs))
        return Decision("missed", (Miss("no_mapping", "nothing is mapped"),))

    return decide


def statuses(plan: Plan) -> dict[str, str]:
    return {call.site.path: decision.status for call, decision in plan}


def test_every_call_gets_one_decision_in_the_order_of_the_calls() -> None:
    plan = plan_rewrites(CALLS, decider())
    assert [call.site.path for call, _ in plan] == list(PATHS)
    assert len(plan) == len(PATHS)


def test_outermost_call_that_can_be_rewritten_covers_those_inside() -> None:
    plan = plan_rewrites(CALLS, decider("block", "block.mlp", "block.norm"))
    assert statuses(plan) == {
        "block": "rewritten",
        "block.mlp": "covered",
        "block.mlp.act": "covered",
        "block.norm": "covered",
        "final": "missed",
    }


def test_inner_calls_have_their_turn_when_the_outer_one_misses() -> None:
    plan = plan_rewrites(CALLS, decider("block.mlp", "block.mlp.act", "final"))
    assert statuses(plan) == {
        "block": "missed",
        "block.mlp": "rewritten",
        "block.mlp.act": "covered",
        "block.norm": "missed",
        "final": "rewritten",
    }


def test_inner_calls_have_their_turn_when_the_outer_one_is_excluded() -> None:
    inner = decider("block.mlp")
    plan = plan_rewrites(CALLS, lambda call, conflict: Decision("excluded") if call.site.path == "block" else inner(call, conflict))
    assert statuses(plan)["block.mlp"] == "rewritten"


def test_miss_of_a_covered_call_names_the_call_that_covers_it() -> None:
    plan = plan_rewrites(CALLS, decider("block"))
    (miss,) = next(decision for call, decision in plan if call.site.path == "block.mlp.act").misses
    assert str(miss) == "covered: it happens inside block#0, which a kernel replaces"


def test_covered_calls_are_not_decided() -> None:
    asked: list[str] = []
    plan_rewrites(CALLS, decider("block", asked=asked))
    assert asked == ["block", "final"]


def test_rewrites_are_the_entries_that_will_be_edited() -> None:
    plan = plan_rewrites(CALLS, decider("block.norm", "final"))
    assert [call.site.path for call, _ in plan.rewrites] == ["block.norm", "final"]


@given(st.permutations(CALLS), st.sets(st.sampled_from(PATHS)))
def test_order_in_which_calls_are_given_does_not_matter(calls: list[LayerCall], rewritten: set[str]) -> None:
    asked: list[str] = []
    plan = plan_rewrites(calls, decider(*rewritten, asked=asked))
    assert [call for call, _ in plan] == calls
    assert statuses(plan) == statuses(plan_rewrites(CALLS, decider(*rewritten)))
    assert len(asked) == len(set(asked))


def test_no_calls_make_an_empty_plan() -> None:
    assert len(plan_rewrites((), decider())) == 0


def test_rewritten_decision_needs_a_replacement() -> None:
    with pytest.raises(ValueError, match="a rewritten call and replacement=None contradict each other"):
        Decision("rewritten")


@pytest.mark.parametrize("status", ["missed", "excluded", "covered", "not_captured"])
def test_other_decisions_have_no_replacement(status: str) -> None:
    with pytest.raises(ValueError, match=f"a {status} call and replacement=.* contradict each other"):
        Decision(status, replacement=Replacement(kernel, ()))
