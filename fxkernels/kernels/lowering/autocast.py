"""Autocast where a call stands: a compiled graph runs without it, and the kernel has to be called as the reference would have been."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import fx

# Asked once: Dynamo of torch 2.11 cannot trace the question.
_DEVICES = frozenset(name for name in ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "maia") if torch.amp.is_autocast_available(name))


def current_dtype(device: str) -> torch.dtype | None:
    """Return the dtype to which autocast is set for a device type here and now, or None if it is off."""
    if device not in _DEVICES or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def has_regions(graph: fx.Graph) -> bool:
    """Whether a captured graph sets autocast anywhere. Few do, and `dtype_at` goes through all nodes before the one asked for."""
    return any(node.op == "call_function" and getattr(node.target, "__name__", "") == "_enter_autocast" for node in graph.nodes)


def dtype_at(node: fx.Node, device: str) -> torch.dtype | None:
    """Return the dtype to which autocast is set where a node of a captured graph stands, or None if it is off there.

    Outside of the graph's own autocast regions it is as it is now: Dynamo guards it.
    """
    states: dict[Any, torch.dtype | None] = {}
    for earlier in node.graph.nodes:
        if earlier is node:
            break
        name = getattr(earlier.target, "__name__", "") if earlier.op == "call_function" else ""
        if name == "_enter_autocast" and earlier.args[0] == device:
            _, dtype, enabled, *_ = (*earlier.args, None, True)[:3]
            states[earlier] = (dtype or torch.get_autocast_dtype(device)) if enabled else None
        elif name == "_exit_autocast":
            states.pop(earlier.args[0], None)
    return list(states.values())[-1] if states else current_dtype(device)


def autocast_to(dtype: torch.dtype | None, device: str) -> AbstractContextManager[Any]:
    """Return a context in which autocast is set to the dtype; None switches it off."""
    if device not in _DEVICES or (dtype is None and not torch.is_autocast_enabled(device)):
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=dtype, enabled=dtype is not None)
