"""Which layer calls feed which: the edges of a picture in which only layer calls are drawn."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from functools import reduce

from torch import fx

from ..passes.layer_call import LayerCall


def reads_of(module: fx.GraphModule, calls: Iterable[LayerCall]) -> dict[str, tuple[str, ...]]:
    """Return for each call the keys of the nearest calls whose outputs reach its inputs, in the calls' order.

    A call that reaches it through another one of these as well is left out: a residual stream carries the outputs of all layers before,
    and the last one says it. Linear in the nodes.

    Args:
        module: A captured graph, before it is edited.
        calls: The layer calls in it and in the graphs nested in it.
    """
    calls = tuple(calls)
    walk = _Walk(calls)
    walk.visit(module.graph, 0)
    return {call.key: tuple([calls[n].key for n in _numbers(reads)]) for call, reads in zip(calls, walk.reads, strict=True)}


class _Walk:
    """One walk over the nodes. A set of calls is an integer with one bit for each, so that merging two costs little."""

    def __init__(self, calls: tuple[LayerCall, ...]) -> None:
        self.reads = [0] * len(calls)
        self._calls = calls
        self._before = [0] * len(calls)
        self._marked = {marker: number for number, call in enumerate(calls) for marker in (call.enter, call.leave)}
        self._merged: dict[int, int] = {}

    def visit(self, graph: fx.Graph, given: int) -> int:
        """Walk over a graph whose inputs these calls have reached; return those that reach its output."""
        reached: dict[fx.Node, int] = {}
        sources = 0
        for node in graph.nodes:
            sources = self._nearest(reduce(operator.or_, [reached[value] for value in node.all_input_nodes], 0))
            number = self._marked.get(node)
            if number is not None:
                self._pass_marker(node, number, sources, reached)
            elif node.op == "placeholder":
                sources = given
            elif node.op == "call_function":
                for body in _bodies(node):
                    sources = self._nearest(sources | self.visit(body.graph, sources))
            if not node.users and number is None and node.args and isinstance(node.args[0], fx.Node):
                reached[node.args[0]] = sources  # it is there for its effect: `cache[...] = key`
            reached[node] = sources
        return sources

    def _pass_marker(self, node: fx.Node, number: int, sources: int, reached: dict[fx.Node, int]) -> None:
        call = self._calls[number]
        if node is call.enter:
            if not call.site.arguments_known:
                sources = self._nearest(reduce(operator.or_, [reached[value] for value in call.outside_values], 0))
            self.reads[number] = sources
            self._before[number] = reduce(operator.or_, [self._before[n] for n in _numbers(sources)], sources)
        else:
            reached.update((output, 1 << number) for output in call.outputs if output in call.inside)

    def _nearest(self, sources: int) -> int:
        """Without the calls that come before another one of them."""
        if sources & (sources - 1) == 0:
            return sources
        found = self._merged.get(sources)
        if found is None:
            found = self._merged[sources] = sources & ~reduce(operator.or_, [self._before[n] for n in _numbers(sources)])
        return found


def _numbers(bits: int) -> Iterator[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def _bodies(node: fx.Node) -> Iterator[fx.GraphModule]:
    """The graphs that a higher-order operator runs, such as checkpointing."""
    for value in node.args:
        if isinstance(value, fx.Node) and value.op == "get_attr":
            body = getattr(node.graph.owning_module, str(value.target), None)
            if isinstance(body, fx.GraphModule):
                yield body
