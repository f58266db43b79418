"""Whether a kernel's gradient can be differentiated again, asked of the autograd graph that one run of it has left behind.

An `autograd.Function` may save what its forward computed. Torch takes that for a constant when its backward is differentiated, and the
second-order gradient misses the terms through it without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import disable_saved_tensors_hooks


def nodes_between(outputs: Sequence[torch.Tensor], inputs: Sequence[Any]) -> Iterator[Any]:
    """The nodes of the autograd graph from the outputs of a function to its inputs, without those of the inputs."""
    seen = {value.grad_fn for value in inputs if isinstance(value, torch.Tensor)} | {None}
    waiting: list[Any] = [output.grad_fn for output in outputs]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        waiting += [following for following, _ in node.next_functions]


def is_twice_differentiable(outputs: Sequence[torch.Tensor], inputs: Sequence[Any]) -> bool:
    """Return whether every function in Python between outputs and inputs keeps nothing but tensors that autograd knows.

    False if that cannot be told, because somebody packs the saved tensors (checkpointing): to unpack them has effects.
    """
    nodes = list(nodes_between(outputs, inputs))
    functions = [node for node in nodes if isinstance(node, BackwardCFunction)]
    if not functions:
        return True
    if _tensors_are_packed():
        return False
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    known = {*nodes, *[tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]}
    leaves = {id(tensor) for tensor in tensors} | {id(node.variable) for node in nodes if hasattr(node, "variable")}
    # An input without a gradient is a constant indeed, and so is a part of it.
    constants = {_memory(tensor) for tensor in tensors if not tensor.requires_grad}

    def is_computed(tensor: torch.Tensor) -> bool:
        if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.numel() == 0:
            return False
        if tensor.requires_grad:  # as a part of a leaf does, too, that was taken where autograd does not look
            return id(tensor) not in leaves if tensor.grad_fn is None else tensor.grad_fn not in known
        return _memory(tensor) not in constants

    return not any(is_computed(tensor) for node in functions for tensor in _kept(node))


def _tensors_are_packed() -> bool:
    try:
        with disable_saved_tensors_hooks("asked whether there are any"):
            return False
    except RuntimeError:
        return True


def _kept(node: Any) -> Iterator[torch.Tensor]:
    """The tensors that a function in Python has saved, or put on its ctx."""
    waiting = [*node.saved_tensors, *vars(node).values()]
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
