"""Find the layer calls of a captured graph by their markers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

from torch import fx

from .layer_call import SITE, CallSite, LayerCall, enter, leave


@dataclass(slots=True)
class _Open:
    """A call whose `leave` has not been seen yet."""

    site: CallSite
    enter: fx.Node
    index: int
    position: int
    parent: _Open | None


def find_layer_calls(graph: fx.Graph, counts: Counter[Hashable] | None = None) -> tuple[LayerCall, ...]:
    """Return the graph's layer calls in the order in which they begin, in one walk over the graph.

    A call whose end is missing (the graph ends inside it) has no `leave` and an empty region; calls inside it stand on their own.

    Args:
        graph: A graph with markers.
        counts: Calls per owner and path seen so far, when one capture consists of several graphs. It is updated.
    """
    counts = Counter() if counts is None else counts
    nodes: list[fx.Node] = []
    opened: list[_Open] = []
    spans: list[tuple[_Open, fx.Node | None, int]] = []
    for node in graph.nodes:
        if node.target is enter:
            site: CallSite = node.meta[SITE]
            opened.append(_Open(site, node, counts[id(site.owner), site.path], len(nodes), opened[-1] if opened else None))
            spans.append((opened[-1], None, 0))
            counts[id(site.owner), site.path] += 1
            nodes.append(node)
        elif node.target is leave:
            _close(node, opened, spans, len(nodes))
            nodes.append(node)
        else:
            nodes.append(node)
    return _assemble(nodes, spans)


def _close(node: fx.Node, opened: list[_Open], spans: list[tuple[_Open, fx.Node | None, int]], position: int) -> None:
    """Pair a `leave` with its `enter`; whatever was opened in between has lost its end."""
    site = node.meta[SITE]
    if not any(call.site is site for call in opened):
        return
    while opened[-1].site is not site:
        opened.pop()
    call = opened.pop()
    at = next(i for i in range(len(spans) - 1, -1, -1) if spans[i][0] is call)
    spans[at] = (call, node, position)


def _assemble(nodes: list[fx.Node], spans: list[tuple[_Open, fx.Node | None, int]]) -> tuple[LayerCall, ...]:
    """Build the calls, parents before children."""
    built: dict[int, LayerCall] = {}
    for call, end, position in spans:
        region = tuple(nodes[call.position + 1 : position]) if end is not None else ()
        parent = call.parent
        while parent is not None and built[id(parent)].leave is None:
            parent = parent.parent
        built[id(call)] = LayerCall(call.site, call.index, call.enter, end, region, built[id(parent)] if parent is not None else None)
    return tuple(built.values())
