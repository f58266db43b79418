"""Carry out a plan: the only place that edits a graph."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

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

    Requires a complete plan for this graph. Ensures that a new node has the name, the module stack, the stack trace and the example value of the
    output that it takes over, and that nothing outside the regions has changed.
    """

    name: ClassVar[str] = "rewrite-calls"

    def __call__(self, graph: fx.Graph, plan: Plan) -> tuple[RewriteRecord, ...]:
        successors: dict[fx.Node, fx.Node] = {}  # an input of a later call may be what an earlier rewrite has replaced
        return tuple(_replace(graph, call, decision.replacement, successors) for call, decision in plan.rewrites if decision.replacement is not None)


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


def _replace(graph: fx.Graph, call: LayerCall, replacement: Replacement, successors: dict[fx.Node, fx.Node]) -> RewriteRecord:
    assert call.leave is not None  # a gate of every plan: a call without an end is never rewritten
    computed = [(position, node) for position, node in enumerate(call.outputs) if node in call.inside]
    with graph.inserting_before(call.leave):
        kernel = graph.call_function(replacement.target, tuple(successors.get(node, node) for node in replacement.inputs))
        if len(call.outputs) == 1:
            pairs = [(call.outputs[0], kernel)]
        else:
            pairs = [(node, graph.call_function(operator.getitem, (kernel, position))) for position, node in computed]
    successors.update(pairs)
    for node, successor in pairs:
        node.replace_all_uses_with(successor, delete_user_cb=lambda user, call=call: user not in call.inside)  # type: ignore[misc]
        _inherit(successor, node)
    if len(call.outputs) > 1:
        kernel.meta = {key: value for key, value in computed[0][1].meta.items() if key != "example_value"}
        kernel.meta["example_value"] = tuple(node.meta.get("example_value") for node in call.outputs)
    before = tuple(node.name for node in call.region if not is_marker(node))
    _erase(graph, call)
    for node, successor in pairs:
        successor.name = node.name
    after = tuple(dict.fromkeys((kernel.name, *(successor.name for _, successor in pairs))))
    return RewriteRecord(call.key, before, after)


def _inherit(successor: fx.Node, node: fx.Node) -> None:
    successor.meta = dict(node.meta)
    successor.type = node.type


def _erase(graph: fx.Graph, call: LayerCall) -> None:
    """Take out the call's markers and region. Gates have made sure that nobody outside uses what is in it."""
    assert call.leave is not None
    graph.erase_node(call.leave)
    for node in reversed(call.region):
        graph.erase_node(node)
    graph.erase_node(call.enter)
