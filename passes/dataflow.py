"""Which layer calls read from which: the graph's dataflow with layer calls only."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import reduce

from torch import fx

from .layer_call import LayerCall


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
        self._begins: defaultdict[fx.Node, list[int]] = defaultdict(list)
        self._gives: defaultdict[fx.Node, dict[fx.Node, int]] = defaultdict(dict)
        self._empty: defaultdict[fx.Graph, list[int]] = defaultdict(list)
        self._merged: dict[int, int] = {}
        for number, call in reversed([*enumerate(calls)]):  # inner calls, which end first, before those around them
            if not call.region:
                self._empty[call.graph].append(number)
            # Where other operations stand between those of a call, its inputs may come late, and its outputs be read early.
            elif call.between:
                self._begins[call.last].insert(0, number)
                for output in call.computed_outputs:
                    self._gives[output][output] = number
            else:
                self._begins[call.first].insert(0, number)
                self._gives[call.last].update(dict.fromkeys(call.computed_outputs, number))
        self._held = {node for call in calls for node in (*call.marked_inputs, *call.outputs)}

    def visit(self, graph: fx.Graph, given: int) -> int:
        """Walk over a graph whose inputs these calls have reached; return those that reach its output."""
        reached: dict[fx.Node, int] = {}
        sources = 0
        nested = graph.owning_module is not None and any(isinstance(each, fx.GraphModule) for each in graph.owning_module.children())
        for node in graph.nodes:
            if node in self._begins:
                for number in self._begins[node]:
                    self._read(number, reached)
            sources = 0
            for value in node.all_input_nodes:
                sources |= reached[value]
            if sources & (sources - 1):
                sources = self._nearest(sources)
            if node.op == "placeholder":
                sources = given
            elif nested and node.op == "call_function":
                for body in _bodies(node):
                    sources = self._nearest(sources | self.visit(body.graph, sources))
            if not node.users and node not in self._held and node.args and isinstance(node.args[0], fx.Node):
                reached[node.args[0]] = sources  # it is there for its effect: `cache[...] = key`
            reached[node] = sources
            if node in self._gives:
                reached.update((output, 1 << number) for output, number in self._gives[node].items())
        for number in reversed(self._empty.get(graph, ())):
            self._read(number, reached)
        return sources

    def _read(self, number: int, reached: dict[fx.Node, int]) -> None:
        call = self._calls[number]
        values = call.marked_inputs if call.site.arguments_known else call.outside_values
        self.reads[number] = sources = self._nearest(reduce(operator.or_, [reached.get(value, 0) for value in values], 0))
        self._before[number] = reduce(operator.or_, [self._before[n] for n in _numbers(sources)], sources)

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
