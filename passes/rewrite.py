"""Carry out a plan: the only place that edits a graph."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from .layer_call import LayerCall, is_marker
from .plan import Plan, Replacement

Listener = Callable[["RewriteRecord"], None]


@dataclass(frozen=True, slots=True)
class RewriteRecord:
    """What one rewrite did to the graph.

    Args:
        key: The layer call, e.g. ``model.layers.3.norm#0``.
        before: Names of the nodes that were taken out, in order.
        after: Names of the nodes that were put in, in order.
    """

    key: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RewriteCalls:
    """Put each planned replacement in the place of its region.

    Requires a complete plan for this graph. Ensures that a new node has the name, the module stack, the stack trace and the example value
    of the output that it takes over, and that nothing outside the regions has changed.
    """

    name: ClassVar[str] = "rewrite-calls"

    def __call__(self, graph: fx.Graph, plan: Plan) -> tuple[RewriteRecord, ...]:
        return tuple(_replace(graph, call, decision.replacement) for call, decision in plan.rewrites if decision.replacement is not None)


@dataclass(frozen=True, slots=True)
class EraseMarkers:
    """Give every call that was not rewritten back the graph it came from.

    Requires that the plan's rewrites are done. Ensures that no marker is left and that no other node has changed.
    """

    name: ClassVar[str] = "erase-markers"

    def __call__(self, graph: fx.Graph, plan: Plan) -> tuple[RewriteRecord, ...]:
        for node in reversed(graph.nodes):
            if is_marker(node):
                graph.erase_node(node)
        return ()


PIPELINE = (RewriteCalls(), EraseMarkers())
"""What `rewrite` runs, in order."""


def rewrite(graph: fx.Graph, plan: Plan, listener: Listener | None = None) -> tuple[RewriteRecord, ...]:
    """Edit the graph as planned and return what was done, in order.

    Args:
        graph: The graph whose calls the plan was made for.
        plan: Its complete plan.
        listener: Called with each record.
    """
    records = tuple(record for step in PIPELINE for record in step(graph, plan))
    for record in records if listener is not None else ():
        listener(record)  # type: ignore[misc]
    return records


def _replace(graph: fx.Graph, call: LayerCall, replacement: Replacement) -> RewriteRecord:
    """Turn the nodes of the outputs into the kernel's call, or into reads of its results, and take out the rest of the region.

    So they keep name, metadata and users, and whoever has one in hand (a replacement of a later call) has the right one.
    """
    assert call.leave is not None  # a gate of every plan: a call without an end is never rewritten
    computed = {node: position for position, node in enumerate(call.outputs) if node in call.inside}
    before = tuple(node.name for node in call.operations)
    if len(call.outputs) == 1:
        (kernel,) = computed
        _become(kernel, replacement.target, replacement.inputs)
    else:
        with graph.inserting_before(call.enter):
            kernel = graph.call_function(replacement.target, replacement.inputs)
        first = next(iter(computed))
        kernel.meta = {**first.meta, "example_value": tuple(node.meta.get("example_value") for node in call.outputs)}
        for node, position in computed.items():
            _become(node, operator.getitem, (kernel, position))
    graph.erase_node(call.leave)
    for node in reversed(call.region):
        if node not in computed:
            graph.erase_node(node)
    graph.erase_node(call.enter)
    return RewriteRecord(call.key, before, tuple(dict.fromkeys((kernel.name, *(node.name for node in computed)))))


def _become(node: fx.Node, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    node.op, node.target = "call_function", function
    node.args, node.kwargs = args, {}
