"""Markers: what capture puts around the operations of an annotated call, so that the call can be found in the graph.

An `enter` node stands before the first and a `leave` node after the last operation. Markers compute nothing; they carry what the graph
alone cannot tell: which call this is, and the exact values that went in and came out. Nothing outside of this file reads them: once the
calls are found and the markers erased, the graph is the one that capture would have left without them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from .layer_call import CallSite, LayerCall

SITE = "layer_call_site"
"""Key of a marker's `node.meta` under which its `CallSite` stands. Two markers belong together if they share one."""


@fx.has_side_effect  # nothing that reorders a graph moves a marker, or an operation across one
def enter(args: tuple[Any, ...], kwargs: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Marker: an annotated call begins, with these arguments and these tensors of its layer."""


@fx.has_side_effect
def leave(outputs: tuple[Any, ...]) -> None:
    """Marker: the call ends, with these tensors as its output."""


def markers_of(graph: fx.Graph) -> list[fx.Node]:
    """Return the markers of a graph, in no particular order. It costs no walk over the graph."""
    return [node for marker in (enter, leave) for node in graph.find_nodes(op="call_function", target=marker, sort=False)]


@dataclass(slots=True, eq=False)
class _Seen:
    """A call whose `enter` has been seen, and perhaps its `leave`. Its operations are numbers `begin` to `end` of the graph's."""

    site: CallSite
    index: int
    parent: _Seen | None
    enter: fx.Node
    begin: int
    leave: fx.Node | None = None
    end: int = 0


def find_marked_calls(graph: fx.Graph, counts: Counter[Hashable] | None = None) -> tuple[LayerCall, ...]:
    """Return the layer calls that markers surround, in the order in which they begin, in one walk over the graph.

    A call whose end is missing (the graph ends inside it) is not `complete`; calls inside it stand on their own.

    Args:
        graph: A graph with markers.
        counts: Calls per owner and path seen so far, when one capture consists of several graphs. It is updated.
    """
    counts = Counter() if counts is None else counts
    operations: list[fx.Node] = []
    seen: list[_Seen] = []
    opened: list[_Seen] = []
    for node in graph.nodes:
        if node.target is enter:
            site: CallSite = node.meta[SITE]
            key = (id(site.owner), site.path)
            call = _Seen(site, counts[key], opened[-1] if opened else None, node, len(operations))
            counts[key] += 1
            seen.append(call)
            opened.append(call)
        elif node.target is leave:
            _close(node, len(operations), opened)
        else:
            operations.append(node)
    return _assemble(graph, operations, seen)


def erase_markers(graph: fx.Graph) -> bool:
    """Take the markers out of a graph and change nothing else. Return whether there were any."""
    markers = markers_of(graph)
    for node in markers:
        graph.erase_node(node)
    return bool(markers)


def in_graph_order(calls: Iterable[LayerCall]) -> tuple[LayerCall, ...]:
    """Return calls whose graph has been put into another order, parents before children as they are given."""
    moved: dict[LayerCall, LayerCall] = {}
    for call in calls:
        parent = moved[call.parent] if call.parent is not None else None
        moved[call] = replace(call, region=tuple(sorted(call.region)), parent=parent)
    return tuple(moved.values())


def _close(node: fx.Node, end: int, opened: list[_Seen]) -> None:
    """Pair a `leave` with its `enter`; whatever was opened in between has lost its end."""
    site = node.meta[SITE]
    if not any(call.site is site for call in opened):
        return
    while opened[-1].site is not site:
        opened.pop()
    call = opened.pop()
    call.leave, call.end = node, end


def _assemble(graph: fx.Graph, operations: list[fx.Node], seen: list[_Seen]) -> tuple[LayerCall, ...]:
    """Build the calls, parents before children."""
    built: dict[_Seen, LayerCall] = {}
    for call in seen:
        parent = call.parent
        while parent is not None and parent.leave is None:
            parent = parent.parent
        marked: Any = call.enter.args
        outputs: Any = call.leave.args[0] if call.leave is not None else ()
        args, kwargs, tensors = marked
        built[call] = LayerCall(
            *(call.site, call.index, graph, args, kwargs, tensors),
            region=tuple(operations[call.begin : call.end]),  # of a call without an end: nothing
            outputs=tuple(outputs),
            parent=built[parent] if parent is not None else None,
            complete=call.leave is not None,
        )
    return tuple(built.values())
