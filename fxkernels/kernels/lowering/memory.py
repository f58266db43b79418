"""Memory of tensors: an operator's outputs share none with its inputs or with each other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch


def storage_of(tensor: torch.Tensor) -> int:
    """Return what is equal for tensors that share their memory, while one of them lives."""
    return int(tensor.untyped_storage()._cdata)


def separated(outputs: Iterable[torch.Tensor], inputs: Iterable[Any]) -> list[torch.Tensor]:
    """Return the outputs; those that share memory with an input or an earlier output as copies."""
    seen = {value.untyped_storage()._cdata for value in inputs if isinstance(value, torch.Tensor)}
    results = []
    for output in outputs:
        storage = output.untyped_storage()._cdata
        if storage in seen:
            results.append(clone(output))
            continue
        seen.add(storage)
        results.append(output)
    return results


def clone(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy with the same strides."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device).copy_(tensor.detach())


def clone_at(positions: Collection[int], tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the tensors, those at some positions as copies."""
    return [clone(tensor) if position in positions else tensor for position, tensor in enumerate(tensors)]


def span(tensor: torch.Tensor) -> int:
    """Return how many elements lie between a tensor's first and last, both included."""
    if tensor.numel() == 0:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
