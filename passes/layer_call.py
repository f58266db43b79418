"""What a layer call looks like in a graph: a pair of markers, and between them the region.

Capture puts an `enter` node before the first and a `leave` node after the last operation of every annotated call. Markers compute
nothing; they carry what the graph alone cannot tell: which call this is, and the exact values that went in and came out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import fx

SITE = "layer_call_site"
"""Key of a marker's `node.meta` under which its `CallSite` stands."""


def enter(args: tuple[Any, ...], kwargs: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Marker: an annotated call begins, with these arguments and these tensors of its layer."""


def leave(outputs: tuple[Any, ...]) -> None:
    """Marker: the call ends, with these tensors as its output."""


def is_marker(node: fx.Node) -> bool:
    """Whether the node is `enter` or `leave`."""
    return node.op == "call_function" and (node.target is enter or node.target is leave)


@dataclass(frozen=True, slots=True, eq=False)
class CallSite:
    """Where a call stands in the user's model, as capture saw it. Two markers belong together if they share one site.

    Args:
        path: Module path of the layer, e.g. ``model.layers.3.norm``; for a function that of its caller and the layer name.
        layer_name: The name that the annotation gives.
        layer: Name of the annotated class or function.
        location: ``file:line`` of the reference's definition, if known.
        annotation: Where the layer name was found: ``"attribute"``, or ``file:line`` of the decorator that it was read from.
        training: The layer's training flag, or None if nobody asked for it (then no graph may depend on it).
        arguments_known: Whether the markers carry the call's arguments. They do not for names that no mapping serves, so that
            capturing such a call adds no guard and no graph input.
        origin: What capture knows about the layer beyond that. The passes hand it on and do not look inside.
        owner: Who asked for this call to be marked; a graph may hold the calls of several. Paths are those of the owner's model.
    """

    path: str
    layer_name: str
    layer: str
    location: str | None = None
    annotation: str = "attribute"
    training: bool | None = None
    arguments_known: bool = True
    origin: Any = None
    owner: Any = None


@dataclass(frozen=True, eq=False)
class LayerCall:
    """One call of an annotated layer in one graph.

    Args:
        site: Where the call stands in the model.
        index: How many calls of the same path precede it.
        enter: The marker before the region.
        leave: The marker after it; None if the call ends in another graph.
        region: The nodes between, without the call's own markers, in order.
        parent: The annotated call inside which this one happens.
    """

    site: CallSite
    index: int
    enter: fx.Node
    leave: fx.Node | None
    region: tuple[fx.Node, ...]
    parent: LayerCall | None

    @property
    def key(self) -> str:
        """The call's name in reports, e.g. ``model.layers.3.norm#0``."""
        return f"{self.site.path}#{self.index}"

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments, graph values as nodes."""
        return self.enter.args[0]  # type: ignore[return-value]

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments, graph values as nodes."""
        return self.enter.args[1]  # type: ignore[return-value]

    @property
    def layer_tensors(self) -> dict[str, Any]:
        """The layer's parameters and buffers by their dotted names, and numbers that were dynamic when it was captured."""
        return self.enter.args[2]  # type: ignore[return-value]

    @cached_property
    def inside(self) -> frozenset[fx.Node]:
        """The region as a set."""
        return frozenset(self.region)

    @cached_property
    def operations(self) -> tuple[fx.Node, ...]:
        """The region without the markers of the calls inside it."""
        return tuple(node for node in self.region if not is_marker(node))

    @cached_property
    def outputs(self) -> tuple[fx.Node, ...]:
        """The tensors that come out of the call, in the order of its output; some may be inputs passed through."""
        return tuple(self.leave.args[0]) if self.leave is not None else ()  # type: ignore[arg-type]

    @cached_property
    def marked_inputs(self) -> tuple[fx.Node, ...]:
        """The graph values among arguments and layer tensors, each once, in order of appearance."""
        return tuple(dict.fromkeys(self.enter.all_input_nodes))

    @cached_property
    def outside_values(self) -> tuple[fx.Node, ...]:
        """The graph values from outside that the region reads or the call hands through, each once, in order of appearance."""
        inside = self.inside
        read = itertools.chain.from_iterable([node.all_input_nodes for node in self.operations])
        return tuple(dict.fromkeys([node for node in (*read, *self.outputs) if node not in inside]))

    @property
    def node(self) -> str:
        """Name of the node that has the first output; empty if the call ends in another graph."""
        return self.outputs[0].name if self.outputs else ""

    def ancestors(self) -> Iterator[LayerCall]:
        """The annotated calls around this one, innermost first."""
        call = self.parent
        while call is not None:
            yield call
            call = call.parent
