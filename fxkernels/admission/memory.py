"""Memory in which it shows who reads and writes where: between fences, uncleared, or in two tensors at once."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.dlpack import from_dlpack

_LARGEST = 1 << 26
_FENCE = 512
"""In bytes, so that what lies behind it is as well aligned as a tensor's own memory."""
_FILL = -6
"""What ``mallopt`` of the GNU C library calls M_PERTURB: new memory is filled with the complement of a byte."""
_NO_NUMBER = 0x80
"""The complement, 0x7f in every byte, is as large as numbers are; in float16 it is none."""


@dataclass(frozen=True, eq=False)
class Fenced:
    """A flat tensor with storage of its own, before and behind which lies memory that nobody may use.

    Args:
        values: The tensor.
        before: What its values were.
        around: The memory, with the fences; None for dtypes that have no value that nobody may use.
    """

    values: torch.Tensor
    before: torch.Tensor
    around: torch.Tensor | None

    @staticmethod
    def copy_of(tensor: torch.Tensor) -> Fenced:
        """Return one with the values of a flat tensor."""
        tensor = tensor.detach()
        if not tensor.is_floating_point() or tensor.element_size() == 1 or not tensor.numel():
            return Fenced(tensor.clone(), tensor, None)
        fence = _FENCE // tensor.element_size()
        around = tensor.new_full((tensor.numel() + 2 * fence,), math.nan)
        # A view of it would tell where the fences are; this has a storage that ends with it.
        values = from_dlpack(around[fence:-fence])
        return Fenced(values.copy_(tensor), tensor, around)

    def is_broken(self) -> bool:
        """Whether somebody wrote before or behind the tensor."""
        if self.around is None:
            return False
        fence = _FENCE // self.around.element_size()
        return not bool(self.around[:fence].isnan().all() & self.around[-fence:].isnan().all())

    def is_changed_besides(self, views: Sequence[tuple[tuple[int, ...], tuple[int, ...], int]]) -> bool:
        """Whether somebody wrote where none of some views of it (sizes, strides, offset) has an element."""
        if sum(math.prod(sizes) for sizes, _, _ in views) >= self.before.numel():
            return False
        changed = self.values.detach() != self.before
        for sizes, strides, offset in views:
            changed.as_strided(sizes, strides, offset).fill_(False)
        return bool(changed.any())


@contextlib.contextmanager
def uncleared_memory(device: torch.device) -> Iterator[None]:
    """Memory that is allocated meanwhile is full of large numbers, where that can be had: zeros would hide that nobody has cleared it."""
    if device.type != "cpu":
        blocks = [torch.full((1 << power,), math.nan, device=device) for power in range(6, 22)]
        del blocks  # the allocator hands out again what it got back
        yield
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        yield
        return
    mallopt(_FILL, _NO_NUMBER)
    try:
        yield
    finally:
        mallopt(_FILL, 0)


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
