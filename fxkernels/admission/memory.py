"""Do two tensors have memory in common? Views of one storage need not."""

from __future__ import annotations

import torch

_LARGEST = 1 << 26


def shared_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether a write to one tensor could change the other."""
    if not one.numel() or not other.numel():
        return False
    storage = one.untyped_storage()
    if storage.data_ptr() != other.untyped_storage().data_ptr():
        return False
    (begin, end), (other_begin, other_end) = _range(one), _range(other)
    if end <= other_begin or other_end <= begin:
        return False
    if one.dtype is not other.dtype or storage.nbytes() > _LARGEST:
        return True
    marked = torch.zeros(storage.nbytes() // one.element_size(), dtype=torch.bool)
    marked.as_strided(one.shape, one.stride(), one.storage_offset()).fill_(True)
    return bool(marked.as_strided(other.shape, other.stride(), other.storage_offset()).any())


def _range(tensor: torch.Tensor) -> tuple[int, int]:
    """The bytes of the storage between a tensor's first and last element."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    begin = int(tensor.storage_offset()) * tensor.element_size()
    return begin, begin + int(span) * tensor.element_size()
