"""The region of a call as a graph of its own: what a kernel must equal."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import torch
from torch import fx

from .layer_call import LayerCall
from .region import external_inputs


def reference_of(call: LayerCall, owner: fx.GraphModule) -> fx.GraphModule:
    """Return the region as a module from the call's external inputs (in the order of `external_inputs`) to a flat tuple of its outputs.

    Args:
        call: A call whose region is replaceable.
        owner: The module whose graph the call stands in; constants that the region reads are taken from it.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in external_inputs(call):
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = {key: value for key, value in node.meta.items() if key == "example_value"}
    for node in call.region:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in call.outputs))
    return fx.GraphModule(owner, graph, class_name="Reference")


def structure(call: LayerCall) -> Hashable:
    """Return a value that is equal for two calls exactly if their references compute the same function of their inputs.

    Regions of identical layers share one reference this way. A region that reads a constant of its graph equals no other, and neither does
    one with an argument of an unknown type. The value refers to no graph, so it can be kept longer than one.
    """
    return structure_of(call.region, external_inputs(call), call.outputs)


def structure_of(operations: Iterable[fx.Node], inputs: Iterable[fx.Node], outputs: Iterable[fx.Node]) -> Hashable:
    """Return the same for any operations of a graph that read nothing but each other and the inputs."""
    return _structure(operations, _numbered(inputs), outputs)


def form(call: LayerCall) -> Hashable:
    """Return a value that is equal for two calls exactly if, besides their `structure`, they mark the same inputs in the same places."""
    values = _numbered(external_inputs(call))
    return _key((call.args, call.kwargs, call.tensors), values), _structure(call.region, values, call.outputs)


def _numbered(inputs: Iterable[fx.Node]) -> dict[fx.Node, Hashable]:
    return {node: (fx.Node, number) for number, node in enumerate(inputs)}


def _structure(operations: Iterable[fx.Node], values: dict[fx.Node, Hashable], outputs: Iterable[fx.Node]) -> Hashable:
    steps: list[Hashable] = [len(values)]
    for node in operations:
        values[node] = (fx.Node, len(values))
        op, target, kwargs = node.op, node.target, node.kwargs
        args = tuple([values[arg] if type(arg) is fx.Node else _key(arg, values) for arg in node.args])
        steps.append((op, object() if op in ("get_attr", "call_module") else target, args, _key(kwargs, values) if kwargs else None))
    return (*steps, tuple([values.get(node) for node in outputs]))


_BY_VALUE = frozenset((bool, int, str, torch.dtype, torch.device, torch.layout, torch.memory_format, type(None), type(...)))


def _key(value: Any, values: dict[fx.Node, Hashable]) -> Hashable:
    kind = type(value)
    if kind is fx.Node:
        return values[value]
    if kind in _BY_VALUE:
        return (kind, value)  # 1, 1.0 and True are equal, but not the same argument
    if kind is float or kind is complex:
        return (kind, repr(value))  # 0.0 equals -0.0, and nan not even itself
    if isinstance(value, tuple | list):
        return (kind, *[_key(item, values) for item in value])
    if isinstance(value, dict):
        return (dict, *[(key, _key(item, values)) for key, item in value.items()])
    if isinstance(value, slice):
        return (slice, _key(value.start, values), _key(value.stop, values), _key(value.step, values))
    return object()
