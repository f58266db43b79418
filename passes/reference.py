"""The region of a call as a graph of its own: what a kernel must equal."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import fx

from .layer_call import LayerCall, is_marker
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
        if not is_marker(node):
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in call.outputs))
    return fx.GraphModule(owner, graph, class_name="Reference")


def structure(call: LayerCall) -> Hashable:
    """Return a value that is equal for two calls exactly if their references compute the same function of their inputs.

    Regions of identical layers share one reference this way. A region that reads a constant of its graph equals no other.
    """
    numbers = {node: number for number, node in enumerate(external_inputs(call))}
    steps: list[Hashable] = [len(numbers)]
    for node in call.region:
        if is_marker(node):
            continue
        numbers[node] = len(numbers)
        target: Hashable = (id(call.enter.graph), node.target) if node.op in ("get_attr", "call_module") else node.target
        steps.append((node.op, target, _key(node.args, numbers), _key(node.kwargs, numbers)))
    return (*steps, tuple(numbers[node] for node in call.outputs))


def _key(value: Any, numbers: dict[fx.Node, int]) -> Hashable:
    if isinstance(value, fx.Node):
        return ("node", numbers[value])
    if isinstance(value, tuple | list):
        return (type(value).__name__, *(_key(item, numbers) for item in value))
    if isinstance(value, dict):
        return ("dict", *((key, _key(item, numbers)) for key, item in value.items()))
    if isinstance(value, slice):
        return ("slice", _key(value.start, numbers), _key(value.stop, numbers), _key(value.step, numbers))
    if isinstance(value, torch.dtype | torch.device | str | int | float | bool | None):
        return (type(value).__name__, value)  # 1, 1.0 and True are equal, but not the same argument
    return ("object", id(value))
