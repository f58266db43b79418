"""Carry out a plan: the only place that puts kernels into a graph."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx

from .layer_call import LayerCall
from .placement import placement_of
from .plan import Plan, Replacement


def rewrite(plan: Plan) -> None:
    """Put each planned replacement in the place of its region.

    A new node has the name, the module stack, the stack trace and the example value of the output that it takes over. Nothing outside the
    regions changes, but that operations may move behind a kernel whose outputs they use.

    Args:
        plan: A complete plan for graphs that have not been edited since.
    """
    for call, decision in plan.rewrites:
        if decision.replacement is not None:
            _replace(call, decision.replacement)


def _replace(call: LayerCall, replacement: Replacement) -> None:
    """Turn the nodes of the outputs into the kernel's call, or into reads of its results, and take out the rest of the region.

    So they keep name, metadata and users, and whoever has one in hand (a replacement of a later call) has the right one.
    """
    placement, computed = placement_of(call), call.computed_outputs
    if len(call.outputs) == 1:
        (kernel,) = computed
        _become(kernel, replacement.target, replacement.inputs)
        if placement.after is not None:
            placement.after.append(kernel)
    else:
        with call.graph.inserting_before(call.first) if placement.after is None else call.graph.inserting_after(placement.after):
            kernel = call.graph.call_function(replacement.target, replacement.inputs)
        kernel.meta = {**computed[0].meta, "example_value": tuple(node.meta.get("example_value") for node in call.outputs)}
        for node in computed:
            _become(node, operator.getitem, (kernel, call.outputs.index(node)))
    behind = kernel
    for node in (*[node for node in computed if node < kernel], *placement.moved):
        behind.append(node)
        behind = node
    for node in reversed(call.region):
        if node not in computed:
            call.graph.erase_node(node)


def _become(node: fx.Node, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if node.op != "call_function":  # torch.fx keeps a table of nodes by operation and target: each assignment has its price
        node.op = "call_function"
    node.target, node.args = function, args
    if node.kwargs:
        node.kwargs = {}
