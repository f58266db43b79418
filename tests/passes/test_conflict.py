"""Calls that cannot both be rewritten."""

from __future__ import annotations

import torch
from graphs import GraphBuilder, call_of, calls_of, kept
from torch import fx

from fxkernels.passes.layer_call import LayerCall
from fxkernels.passes.miss import Miss
from fxkernels.passes.plan import Decision, Plan, Replacement, plan_rewrites


def replace(*inputs: torch.Tensor) -> torch.Tensor:
    raise AssertionError("planning runs no kernel")


def decide(call: LayerCall, conflict: Miss | None) -> Decision:
    if conflict is not None:
        return Decision("missed", (conflict,))
    return Decision("rewritten", replacement=Replacement(replace, call.marked_inputs))


def outcomes(plan: Plan) -> dict[str, str]:
    return {call.key: str(decision.misses[0]) if decision.misses else decision.status for call, decision in plan}


def chain() -> tuple[fx.Graph, list[fx.Node]]:
    """x -> sin -> cos -> tan -> exp."""
    build = GraphBuilder()
    nodes = [build.tensor("x", 4)]
    for function in (torch.sin, torch.cos, torch.tan, torch.exp):
        nodes.append(build(function, nodes[-1]))
    return build.finish(nodes[-1]), nodes


def test_of_two_calls_that_share_an_operation_the_earlier_one_is_rewritten() -> None:
    graph, (x, sin, cos, tan, _) = chain()
    later = call_of(graph, "later", (sin,), (cos, tan), tan)
    earlier = call_of(graph, "earlier", (x,), (sin, cos), cos)
    assert outcomes(plan_rewrites((later, earlier), decide)) == {
        "later#0": "conflict: cos is also an operation of earlier#0, which a kernel replaces",
        "earlier#0": "rewritten",
    }


def test_of_two_calls_that_begin_together_the_larger_one_is_rewritten() -> None:
    graph, (x, sin, cos, tan, _) = chain()
    small = call_of(graph, "small", (x,), (sin, cos), cos)
    large = call_of(graph, "large", (x,), (sin, cos, tan), tan)
    assert outcomes(plan_rewrites((small, large), decide))["large#0"] == "rewritten"


def test_a_call_has_its_turn_where_the_one_that_shares_its_operations_misses() -> None:
    graph, (x, sin, cos, tan, _) = chain()
    calls = (call_of(graph, "earlier", (x,), (sin, cos), cos), call_of(graph, "later", (sin,), (cos, tan), tan))
    plan = plan_rewrites(calls, lambda call, conflict: kept(call) if call.site.path == "earlier" else decide(call, conflict))
    assert outcomes(plan) == {"earlier#0": "excluded", "later#0": "rewritten"}


def test_a_call_inside_the_one_that_is_rewritten_is_covered_and_in_no_conflict() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    with build.layer("outer", x) as outer:
        with build.layer("inner", x) as inner:
            inner.returns(build(torch.sin, x))
        outer.returns(build(torch.cos, inner.output))
    assert outcomes(plan_rewrites(calls_of(build.finish(outer.output)), decide)) == {
        "outer#0": "rewritten",
        "inner#0": "covered: it happens inside outer#0, which a kernel replaces",
    }


def test_a_kernel_does_not_give_what_is_computed_inside_its_call_to_another() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    with build.layer("first", x) as first:
        inner = build(torch.sin, x)
        first.returns(build(torch.cos, inner))
    with build.layer("second", inner, first.output) as second:  # which does not read its first argument
        second.returns(build(torch.tan, first.output))
    assert outcomes(plan_rewrites(calls_of(build.finish(second.output)), decide)) == {
        "first#0": "rewritten",
        "second#0": "conflict: its argument sin is computed inside first#0, which a kernel replaces",
    }


def test_a_kernel_does_not_give_what_an_earlier_call_takes() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    begin = build(torch.neg, x)
    inner = build(torch.sin, x)
    output = build(torch.cos, inner)
    end = build(torch.add, begin, output)
    graph = build.finish(end)
    calls = (call_of(graph, "early", (x, inner, output), (begin, end), end), call_of(graph, "late", (x,), (inner, output), output))
    assert outcomes(plan_rewrites(calls, decide)) == {
        "early#0": "rewritten",
        "late#0": "conflict: sin is computed inside it and is an argument of early#0, which a kernel replaces",
    }


def test_calls_whose_operations_alternate_are_both_rewritten_where_nothing_moves() -> None:
    build = GraphBuilder()
    q, k = build.tensor("q", 4), build.tensor("k", 4)
    q1, k1 = build(torch.sin, q), build(torch.sin, k)
    q2, k2 = build(torch.cos, q1), build(torch.cos, k1)
    graph = build.finish(q2, k2)
    plan = plan_rewrites((call_of(graph, "q", (q,), (q1, q2), q2), call_of(graph, "k", (k,), (k1, k2), k2)), decide)
    assert outcomes(plan) == {"q#0": "rewritten", "k#0": "rewritten"}


def moving(build: GraphBuilder, x: fx.Node) -> tuple[tuple[fx.Node, ...], tuple[fx.Node, fx.Node], fx.Node]:
    """Arguments and operations of a call whose kernel has to wait for an input, and an operation that stands between."""
    first, between = build(torch.sin, x), build(torch.neg, x)
    return (x, between), (first, build(torch.add, first, between)), between


def test_where_one_kernel_changes_the_order_another_in_between_is_a_conflict() -> None:
    build = GraphBuilder()
    args, region, between = moving(build, build.tensor("x", 4))
    graph = build.finish(*region)
    calls = (call_of(graph, "moves", args, region, *region), call_of(graph, "stays", args[:1], (between,), between))
    assert outcomes(plan_rewrites(calls, decide)) == {
        "moves#0": "rewritten",
        "stays#0": "conflict: neg stands between operations of moves#0, whose kernel changes their order",
    }


def test_a_kernel_may_not_change_the_order_around_one_that_is_there() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    before = build(torch.tan, x)
    args, region, between = moving(build, x)
    graph = build.finish(*region, before)
    stays = call_of(graph, "stays", (x,), (before, between), before, between)
    assert outcomes(plan_rewrites((call_of(graph, "moves", args, region, *region), stays), decide)) == {
        "stays#0": "rewritten",
        "moves#0": "conflict: its kernel would change the order around neg, an operation of stays#0, which a kernel replaces",
    }
