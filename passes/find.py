"""Find the layer calls of a captured graph by their markers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

from torch import fx

from .layer_call import SITE, CallSite, LayerCall, enter, leave


@dataclass(slots=True, eq=False)
class _Seen:
    """A call whose `enter` has been seen, and perhaps its `leave`, with their positions in the graph."""

    site: CallSite
    index: int
    parent: _Seen | None
    enter: fx.Node
    begin: int
    leave: fx.Node | None = None
    end: int = 0


def find_layer_calls(graph: fx.Graph, counts: Counter[Hashable] | None = None) -> tuple[LayerCall, ...]:
    """Return the graph's layer calls in the order in which they begin, in one walk over the graph.

    A call whose end is missing (the graph ends inside it) has no `leave` and an empty region; calls inside it stand on their own.

    Args:
        graph: A graph with markers.
        counts: Calls per owner and path seen so far, when one capture consists of several graphs. It is updated.
    """
    counts = Counter() if counts is None else counts
    nodes = list(graph.nodes)
    seen: list[_Seen] = []
    opened: list[_Seen] = []
    for position, node in enumerate(nodes):
        if node.target is enter:
            site: CallSite = node.meta[SITE]
            key = (id(site.owner), site.path)
            call = _Seen(site, counts[key], opened[-1] if opened else None, node, position)
            counts[key] += 1
            seen.append(call)
            opened.append(call)
        elif node.target is leave:
            _close(node, position, opened)
    return _assemble(nodes, seen)


def _close(node: fx.Node, position: int, opened: list[_Seen]) -> None:
    """Pair a `leave` with its `enter`; whatever was opened in between has lost its end."""
    site = node.meta[SITE]
    if not any(call.site is site for call in opened):
        return
    while opened[-1].site is not site:
        opened.pop()
    call = opened.pop()
    call.leave, call.end = node, position


def _assemble(nodes: list[fx.Node], seen: list[_Seen]) -> tuple[LayerCall, ...]:
    """Build the calls, parents before children."""
    built: dict[_Seen, LayerCall] = {}
    for call in seen:
        parent = call.parent
        while parent is not None and parent.leave is None:
            parent = parent.parent
        region = tuple(nodes[call.begin + 1 : call.end])  # of a call without an end: nothing
        built[call] = LayerCall(call.site, call.index, call.enter, call.leave, region, built[parent] if parent is not None else None)
    return tuple(built.values())
