"""Calls that cannot both be rewritten: they share operations, or one needs what the kernel of the other does not give."""

from __future__ import annotations

from torch import fx

from .layer_call import LayerCall
from .miss import Miss
from .placement import IN_PLACE, placement_of


class RewrittenCalls:
    """The calls that a plan rewrites so far, and what they leave to others. None of them is inside another."""

    def __init__(self) -> None:
        self._replaced: dict[fx.Node, LayerCall] = {}
        self._read: dict[fx.Node, LayerCall] = {}
        self._crossed: dict[fx.Node, LayerCall] = {}

    def add(self, call: LayerCall) -> None:
        """Take in a call that has no conflict with the earlier ones."""
        self._replaced.update(dict.fromkeys(call.region, call))
        self._read.update(dict.fromkeys(call.marked_inputs, call))
        if placement_of(call) != IN_PLACE:
            self._crossed.update(dict.fromkeys(call.between, call))

    def conflict(self, call: LayerCall) -> Miss | None:
        """Return why a call cannot be rewritten beside these, or None if it can."""
        return self._shares(call) or self._takes_or_gives(call) or self._moves(call)

    def _shares(self, call: LayerCall) -> Miss | None:
        if self._replaced.keys().isdisjoint(call.inside):
            return None
        node = next(node for node in call.region if node in self._replaced)
        return _conflict("{node} is also an operation of {key}, which a kernel replaces", node, self._replaced[node])

    def _takes_or_gives(self, call: LayerCall) -> Miss | None:
        """A kernel gives the outputs of its call and no other value of the region."""
        for node in call.marked_inputs:
            other = self._replaced.get(node)
            if other is not None and node not in other.outputs:
                return _conflict("its argument {node} is computed inside {key}, which a kernel replaces", node, other)
        if self._read.keys().isdisjoint(call.inside):
            return None
        for node in call.region:
            if node in self._read and node not in call.outputs:
                message = "{node} is computed inside it and is an argument of {key}, which a kernel replaces"
                return _conflict(message, node, self._read[node])
        return None

    def _moves(self, call: LayerCall) -> Miss | None:
        """Where a kernel changes the order of what is around it, another one has to keep its place."""
        if not self._crossed.keys().isdisjoint(call.inside):
            node = next(node for node in call.region if node in self._crossed)
            return _conflict("{node} stands between operations of {key}, whose kernel changes their order", node, self._crossed[node])
        if placement_of(call) == IN_PLACE:
            return None
        for node in call.between:
            if node in self._replaced:
                message = "its kernel would change the order around {node}, an operation of {key}, which a kernel replaces"
                return _conflict(message, node, self._replaced[node])
        return None


def _conflict(template: str, node: fx.Node, other: LayerCall) -> Miss:
    return Miss("conflict", template, {"node": node.name, "key": other.key})
