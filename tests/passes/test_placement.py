"""Regions that are not contiguous: where their kernels go, and why there may be no such place."""

from __future__ import annotations

import operator
from collections.abc import Callable
from textwrap import dedent

import pytest
import torch
import torch.nn.functional as F
from graphs import GraphBuilder, call_of, computing, named, replaced, text
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from fxkernels.passes.layer_call import LayerCall
from fxkernels.passes.placement import IN_PLACE, placement_of
from fxkernels.passes.plan import Decision, Plan, plan_rewrites
from fxkernels.passes.region import why_not_replaceable
from fxkernels.passes.rewrite import rewrite
from fxkernels.passes.verify import fault_of_any_node, fault_of_rewrites, nodes_without_example_value

Between = Callable[[GraphBuilder, fx.Node, fx.Node], object]


def swiglu(between: Between = lambda b, gate, x: None) -> tuple[fx.GraphModule, LayerCall]:
    """silu(x) * (x @ m), where the product stands between the operations of the call, and whatever else is asked for before it."""
    build = GraphBuilder()
    x, m = build.tensor("x", 4, 4), build.tensor("m", 4, 4)
    gate = build(F.silu, x)
    between(build, gate, x)
    up = build(torch.matmul, x, m)
    product = build(operator.mul, gate, up)
    module = build.module(build(torch.exp, product))
    return module, call_of(module.graph, "swiglu", (x, up), (gate, product), product)


def two_outputs(use: Between = lambda b, first, x: b(torch.cos, first), own: str = "sin") -> tuple[fx.GraphModule, LayerCall]:
    """first = sin(x), second = first + y, with y computed between the two and `first` used before that."""
    build = GraphBuilder()
    x = build.tensor("x", 4)
    first = build(torch.sin, x)
    used = use(build, first, x)
    y = build(torch.neg, x)
    second = build(torch.add, first, y)
    module = build.module(second, *([used] if isinstance(used, fx.Node) else []))
    return module, call_of(module.graph, "pair", (x, y), (first, second), first, second)


def rewritten(module: fx.GraphModule, *calls: LayerCall) -> Plan:
    """Rewrite those of the calls that may be, and check that the graph computes what it did."""
    inputs = [torch.rand(4, 4) if node.name == "m" else torch.rand(node.meta["example_value"].shape) for node in placeholders(module)]
    expected = module(*(value.clone() for value in inputs))

    def decide(call: LayerCall, conflict: object) -> Decision:
        return Decision("excluded") if conflict or why_not_replaceable(call) else replaced(call, module)

    without_example_value = nodes_without_example_value([module])
    plan = plan_rewrites(calls, decide)
    rewrite(plan)
    assert fault_of_any_node([module], without_example_value) is None
    assert fault_of_rewrites(plan) is None
    module.recompile()
    torch.testing.assert_close(module(*(value.clone() for value in inputs)), expected, equal_nan=True)
    return plan


def placeholders(module: fx.GraphModule) -> list[fx.Node]:
    return module.graph.find_nodes(op="placeholder")


def miss_of(call: LayerCall) -> str:
    return str(why_not_replaceable(call))


# --- golden graphs ----------------------------------------------------------------------------------------------------------------------


def test_what_uses_an_output_before_the_last_input_moves_behind_the_kernel_and_keeps_its_order() -> None:
    module, call = two_outputs(lambda b, first, x: b(torch.exp, b(torch.add, b(torch.cos, first), b(torch.tan, x))))
    assert text(module.graph) == dedent("""\
        sin = sin(x)
        cos = cos(sin)
        tan = tan(x)
        add = add(cos, tan)
        exp = exp(add)
        neg = neg(x)
        add_1 = add(sin, neg)""")
    rewritten(module, call)
    assert text(module.graph) == dedent("""\
        tan = tan(x)
        neg = neg(x)
        kernel = kernel(x, neg)
        sin = getitem(kernel, 0)
        cos = cos(sin)
        add = add(cos, tan)
        exp = exp(add)
        add_1 = getitem(kernel, 1)""")


# --- places -----------------------------------------------------------------------------------------------------------------------------


def test_the_only_output_becomes_the_kernel_where_it_stands_and_nothing_else_moves() -> None:
    module, call = swiglu()
    assert placement_of(call) == IN_PLACE
    rewritten(module, call)
    assert computing(module.graph) == ["matmul", "mul", "exp"]


def test_of_several_outputs_the_kernel_goes_behind_the_last_input() -> None:
    module, call = two_outputs(lambda b, first, x: None)
    rewritten(module, call)
    assert computing(module.graph) == ["neg", "kernel", "sin", "add"]


def test_what_stands_outside_of_the_region_stays_where_it_is() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    before = build(torch.cos, x)
    first = build(torch.sin, before)
    y = build(torch.neg, x)
    second = build(torch.add, first, y)
    after = [build(torch.tan, x), build(torch.exp, second)]
    module = build.module(*after)
    rewritten(module, call_of(module.graph, "pair", (before, y), (first, second), first, second))
    assert computing(module.graph) == ["cos", "neg", "kernel", "sin", "add", "tan", "exp"]


def test_kernel_behind_the_last_input_has_name_and_metadata_of_the_outputs() -> None:
    module, call = two_outputs()
    before = {name: dict(named(module.graph, name).meta) for name in ("sin", "add")}
    rewritten(module, call)
    assert {name: dict(named(module.graph, name).meta) for name in ("sin", "add")} == before
    assert named(module.graph, "kernel").meta["stack_trace"] == "the line of sin"


# --- no place ---------------------------------------------------------------------------------------------------------------------------


def test_a_region_that_a_path_leaves_and_enters_again_is_a_miss() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    first = build(torch.sin, x)
    outside = build(torch.cos, first)
    second = build(torch.add, first, outside)
    call = call_of(build.finish(second), "loop", (x, outside), (first, second), first, second)
    assert miss_of(call) == "escape: cos is computed outside from a value of the call, and the call reads it"


def test_the_path_may_be_long() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    first = build(torch.sin, x)
    outside = build(torch.exp, build(torch.neg, build(torch.cos, first)))
    second = build(torch.add, first, outside)
    call = call_of(build.finish(second), "loop", (x, outside), (first, second), first, second)
    assert miss_of(call).startswith("escape: exp is computed outside")


def unknown(x: torch.Tensor) -> torch.Tensor:
    return x + 1


DISTURBING: dict[str, tuple[Between, str]] = {
    "a write into an input": (
        lambda b, gate, x: b.method("add_", x, 1),
        "mutation: add_ stands between the operations of the call and writes into x",
    ),
    "a write into a view of an input": (
        lambda b, gate, x: b.method("zero_", b.method("view", x, 16)),
        "mutation: zero_ stands between the operations of the call and writes into view",
    ),
    "an operation of unknown kind": (
        lambda b, gate, x: b(unknown, x),
        "mutation: unknown stands between the operations of the call, and may do more than compute",
    ),
    "a switch": (
        lambda b, gate, x: b(torch._C._set_grad_enabled, False),
        "mutation: _set_grad_enabled stands between the operations of the call, and may do more than compute",
    ),
}


@pytest.mark.parametrize("name", DISTURBING)
def test_what_changes_what_the_call_reads_may_not_stand_between_its_operations(name: str) -> None:
    between, expected = DISTURBING[name]
    with torch.enable_grad():
        assert miss_of(swiglu(between)[1]) == expected


HARMLESS: dict[str, Between] = {
    "computes something else": lambda b, gate, x: b(torch.sin, x),
    "draws random numbers": lambda b, gate, x: b(torch.rand_like, x),
    "writes into memory of its own": lambda b, gate, x: b.method("add_", b(torch.sin, x), 1),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_the_call_cannot_see_may_stand_between_its_operations(name: str) -> None:
    module, call = swiglu(HARMLESS[name])
    assert why_not_replaceable(call) is None
    assert len(rewritten(module, call).rewrites) == 1


def test_a_write_may_stand_between_but_not_where_operations_have_to_move() -> None:
    _, call = two_outputs(lambda b, first, x: (b.method("add_", b(torch.tan, x), 1), b(torch.cos, first))[1])
    assert miss_of(call) == "mutation: add_ stands between the operations of the call and writes into tan"


def test_what_has_to_move_may_not_draw_random_numbers() -> None:
    _, call = two_outputs(lambda b, first, x: b(F.dropout, first, 0.5, True))
    assert miss_of(call) == "random: dropout draws random numbers and would have to wait for the call's last input"


def test_a_region_that_writes_must_be_in_one_place() -> None:
    build = GraphBuilder()
    x, y = build.tensor("x", 4), build.tensor("y", 4)
    first = build(torch.sin, x)
    other = build(torch.neg, y)
    second = build.method("add_", first, 1)
    call = call_of(build.finish(second, other), "writes", (x,), (first, second), second)
    assert miss_of(call) == "mutation: add_ writes into memory, and other operations stand between those of the call"


# --- any regions ------------------------------------------------------------------------------------------------------------------------

FUNCTIONS: tuple[tuple[Callable[..., object], int], ...] = ((torch.sin, 1), (torch.neg, 1), (torch.add, 2), (torch.mul, 2))


@st.composite
def graphs_with_calls(draw: st.DrawFn) -> tuple[fx.GraphModule, list[LayerCall]]:
    """A graph of operations that read any earlier values, some of which write into them, and calls of any of them."""
    build = GraphBuilder()
    values = [build.tensor("x", 3), build.tensor("y", 3)]
    for _ in range(draw(st.integers(2, 10))):
        if draw(st.integers(0, 7)) == 0:
            values.append(build.method("add_", draw(st.sampled_from(values)), 1))
            continue
        function, count = draw(st.sampled_from(FUNCTIONS))
        values.append(build(function, *[draw(st.sampled_from(values)) for _ in range(count)]))
    module = build.module(*[node for node in values if draw(st.booleans())])
    calls = []
    for number in range(draw(st.integers(1, 3))):
        region = tuple(node for node in values[2:] if draw(st.booleans()))
        outputs = [node for node in region if any(user not in region for user in node.users)]
        inputs = dict.fromkeys(value for node in region for value in node.all_input_nodes if value not in region)
        if region:
            calls.append(call_of(module.graph, f"call{number}", tuple(inputs), region, *outputs))
    return module, calls


@settings(max_examples=300)
@given(graphs_with_calls())
def test_calls_that_may_be_rewritten_together_leave_a_graph_that_computes_the_same(
    drawn: tuple[fx.GraphModule, list[LayerCall]],
) -> None:
    module, calls = drawn
    rewritten(module, *calls)
