"""A layer call as a value: which call of which layer it is, what goes in, the operations that compute it, and what comes out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import fx


@dataclass(frozen=True, slots=True, eq=False)
class CallSite:
    """Where a call stands in the user's model, as capture saw it.

    Args:
        path: Module path of the layer, e.g. ``model.layers.3.norm``; for a function that of its caller and the layer name.
        layer_name: The name that the annotation gives.
        layer: Name of the annotated class or function.
        location: ``file:line`` of the reference's definition, if known.
        annotation: Where the layer name was found: ``"attribute"``, or ``file:line`` of the decorator that it was read from.
        training: The layer's training flag, or None if nobody asked for it (then no graph may depend on it).
        arguments_known: Whether capture has looked at the call's arguments. It does not for names that no mapping serves, so that
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
        graph: The graph that has the call.
        args: Positional arguments, graph values as nodes.
        kwargs: Keyword arguments, graph values as nodes.
        tensors: The layer's parameters and buffers by their dotted names, and numbers that were dynamic when it was captured.
        region: The operations of the call, those of the calls inside it among them, in the order of the graph. Other operations may stand
            between them.
        outputs: The tensors that come out of the call, in the order of its output; some may be inputs passed through.
        parent: The layer call inside which this one happens.
        complete: Whether the call also ends in this graph. One that does not has neither region nor outputs.
    """

    site: CallSite
    index: int
    graph: fx.Graph
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Any] = field(default_factory=dict)
    region: tuple[fx.Node, ...] = ()
    outputs: tuple[fx.Node, ...] = ()
    parent: LayerCall | None = None
    complete: bool = True

    @property
    def key(self) -> str:
        """The call's name in reports, e.g. ``model.layers.3.norm#0``."""
        return f"{self.site.path}#{self.index}"

    @property
    def module(self) -> fx.GraphModule:
        """The module whose graph has the call; constants that the region reads are its attributes."""
        module: fx.GraphModule | None = self.graph.owning_module
        if module is None:
            raise ValueError(f"the graph of {self.key} is that of no module")
        return module

    @property
    def first(self) -> fx.Node:
        """The first operation of the region, which has at least one."""
        return self.region[0]

    @property
    def last(self) -> fx.Node:
        """The last operation of the region, which has at least one."""
        return self.region[-1]

    @cached_property
    def inside(self) -> frozenset[fx.Node]:
        """The region as a set."""
        return frozenset(self.region)

    @cached_property
    def between(self) -> tuple[fx.Node, ...]:
        """The nodes that stand between those of the region and are not of it, in the order of the graph before it is edited."""
        found: list[fx.Node] = []
        node = self.region[0] if self.region else None
        for following in self.region[1:]:
            node = node.next  # type: ignore[union-attr]
            while node is not following:
                found.append(node)
                node = node.next
        return tuple(found)

    @cached_property
    def marked_inputs(self) -> tuple[fx.Node, ...]:
        """The graph values among arguments and layer tensors, each once, in order of appearance."""
        found: dict[fx.Node, None] = {}
        fx.node.map_arg((self.args, self.kwargs, self.tensors), lambda node: found.setdefault(node))
        return tuple(found)

    @cached_property
    def outside_values(self) -> tuple[fx.Node, ...]:
        """The graph values from outside that the region reads or the call hands through, each once, in order of appearance."""
        inside = self.inside
        read = itertools.chain.from_iterable([node.all_input_nodes for node in self.region])
        return tuple(dict.fromkeys([node for node in (*read, *self.outputs) if node not in inside]))

    @cached_property
    def computed_outputs(self) -> tuple[fx.Node, ...]:
        """The outputs that the region computes, each once."""
        return tuple(dict.fromkeys([node for node in self.outputs if node in self.inside]))

    @property
    def node(self) -> str:
        """Name of the node that has the first output; empty if the call ends in another graph."""
        return self.outputs[0].name if self.outputs else ""

    def ancestors(self) -> Iterator[LayerCall]:
        """The layer calls around this one, innermost first."""
        call = self.parent
        while call is not None:
            yield call
            call = call.parent
