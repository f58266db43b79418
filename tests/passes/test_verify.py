"""Whether a graph holds together after a pass: real graphs, and the same graphs as a faulty pass would leave them."""

from __future__ import annotations

import torch
from graphs import GraphBuilder, named, norm_call, rewrite_calls
from torch import fx

from fxkernels.passes.markers import erase_markers, find_marked_calls
from fxkernels.passes.plan import Plan
from fxkernels.passes.verify import fault_of_any_node, fault_of_markers, fault_of_rewrites, nodes_without_example_value


def norm_between_two_operations() -> fx.GraphModule:
    """x is negated, normalized (a marked call) and exponentiated."""
    build = GraphBuilder()
    x, weight = build.tensor("x", 4, 8), build.tensor("weight", 8)
    return build.module(build(torch.exp, norm_call(build, "norm", build(torch.neg, x), weight)))


def rewritten_norm() -> tuple[fx.GraphModule, Plan, fx.Node]:
    """The same with a kernel in place of the norm, the plan, and the node of the kernel."""
    module = norm_between_two_operations()
    plan = rewrite_calls(module, "norm")
    (kernel,) = named(module.graph, "exp").all_input_nodes
    return module, plan, kernel


def test_a_graph_whose_call_was_rewritten_has_no_fault() -> None:
    module, plan, _ = rewritten_norm()
    assert [call.key for call, _ in plan.rewrites] == ["norm#0"]
    assert fault_of_rewrites(plan) is None
    assert fault_of_markers([module]) is None
    assert fault_of_any_node([module], nodes_without_example_value([module])) is None


def test_a_kernel_that_stands_before_what_it_reads_is_a_fault() -> None:
    module, plan, kernel = rewritten_norm()
    named(module.graph, "neg").prepend(kernel)
    assert fault_of_rewrites(plan) == f"{kernel.name} reads neg, which comes later"


def test_a_kernel_that_stands_behind_what_reads_it_is_a_fault() -> None:
    module, plan, kernel = rewritten_norm()
    named(module.graph, "exp").append(kernel)
    assert fault_of_rewrites(plan) == f"exp reads {kernel.name}, which comes later"


def test_a_kernel_without_an_example_value_is_a_fault() -> None:
    module, plan, kernel = rewritten_norm()
    del kernel.meta["example_value"]
    assert fault_of_rewrites(plan) == f"{kernel.name} without an example value"
    assert fault_of_any_node([module], frozenset({named(module.graph, "output")})) == f"{kernel.name} without an example value"


def test_a_fault_outside_of_the_rewritten_calls_is_found_where_every_node_is_looked_at() -> None:
    module, plan, _ = rewritten_norm()
    without = nodes_without_example_value([module])
    named(module.graph, "x").prepend(named(module.graph, "neg"))
    assert fault_of_rewrites(plan) is None
    fault = fault_of_any_node([module], without)
    assert fault is not None
    assert "x" in fault
    assert "neg" in fault


def test_a_marker_is_a_fault_until_it_is_erased_also_in_a_nested_graph() -> None:
    plain, marked = fx.symbolic_trace(torch.nn.ReLU()), norm_between_two_operations()
    fault = fault_of_markers([plain, marked])
    assert fault is not None
    assert fault.startswith("the marker enter")
    assert len(find_marked_calls(marked.graph)) == 1
    erase_markers(marked.graph)
    assert fault_of_markers([plain, marked]) is None


def test_a_node_that_never_had_an_example_value_is_no_fault() -> None:
    module, _, _ = rewritten_norm()
    output = named(module.graph, "output")
    assert nodes_without_example_value([module]) == {output}
    assert fault_of_any_node([module], frozenset({output})) is None
    assert fault_of_any_node([module], frozenset()) == "output without an example value"
