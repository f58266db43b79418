"""Example values: the fake value that capture computed for each node, from which dtypes, sizes and shared memory are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx


def example(node: fx.Node) -> Any:
    """The fake value that capture computed for the node, or None."""
    return node.meta.get("example_value")


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of an example value, which may be a tuple, a list or a dictionary of them."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(tuple(value.values()))


def storage_of(tensor: torch.Tensor) -> int:
    """A number that two fake tensors of one graph have in common exactly if one is a view of the other, or both of a third."""
    return int(tensor.untyped_storage()._cdata)


def has_plain_storage(tensor: torch.Tensor) -> bool:
    """Whether the tensor's storage says what it shares memory with. That of a sparse one or of a wrapper does not."""
    return tensor.layout is torch.strided and not hasattr(tensor, "__tensor_flatten__")


def storages_of(node: fx.Node) -> Iterator[int]:
    """Yield the storages of the plain tensors of a node's example value."""
    return (storage_of(tensor) for tensor in tensors_in(example(node)) if has_plain_storage(tensor))
