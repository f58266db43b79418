"""Does a graph hold together? Asked between passes, so that a faulty pass is named and not what fails because of it.

To check every node of a graph costs half of what it costs to plan its calls (94 us of 200 us per layer call of 14 nodes, torch 2.13). So by
default only what a plan has edited is checked, and that no marker is left; every node after every pass where somebody observes the passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import fx

from .markers import markers_of
from .plan import Plan


def fault_of_rewrites(plan: Plan) -> str | None:
    """Return what is wrong with what took the places of the regions that a plan rewrites, or None if nothing is.

    A node must stand behind what it reads and before what reads it, and have an example value.
    """
    for call, decision in plan.rewrites:
        for output in call.computed_outputs:
            kernels = [node for node in output.all_input_nodes if decision.replacement and node.target is decision.replacement.target]
            for node in (*kernels, output):
                if (fault := next(_faults(node), None)) is not None:
                    return fault
    return None


def fault_of_markers(modules: Iterable[fx.GraphModule]) -> str | None:
    """Return which marker is left in these graphs, or None if none is."""
    left = next((node for module in modules for node in markers_of(module.graph)), None)
    return None if left is None else f"the marker {left.name} is left"


def nodes_without_example_value(modules: Iterable[fx.GraphModule]) -> frozenset[fx.Node]:
    """Return the nodes of these graphs that have no example value."""
    return frozenset(node for module in modules for node in module.graph.nodes if "example_value" not in node.meta)


def fault_of_any_node(modules: Iterable[fx.GraphModule], without_example_value: frozenset[fx.Node]) -> str | None:
    """Return what is wrong with these graphs, or None if nothing is.

    Args:
        modules: The graphs.
        without_example_value: The nodes that had no example value when the graphs were captured.
    """
    for module in modules:
        try:
            module.graph.lint()
        except (RuntimeError, ValueError, AssertionError) as error:
            return str(error)
        lost = nodes_without_example_value([module]) - without_example_value
        if lost:
            return f"{', '.join(node.name for node in module.graph.nodes if node in lost)} without an example value"
    return None


def _faults(node: fx.Node) -> Iterator[str]:
    yield from (f"{node.name} reads {value.name}, which comes later" for value in node.all_input_nodes if not value < node)
    yield from (f"{user.name} reads {node.name}, which comes later" for user in node.users if not node < user)
    if "example_value" not in node.meta:
        yield f"{node.name} without an example value"
