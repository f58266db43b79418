"""Memory in which it shows who reads and writes where: between fences, uncleared, or in two tensors at once."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack

from ..kernels.samples import Sample, TensorSpec

_LARGEST = 1 << 26
_FENCE = 512
"""In bytes, so that what lies behind it is as well aligned as a tensor's own memory."""
_FILL = -6
"""What ``mallopt`` of the GNU C library calls M_PERTURB: new memory is filled with the complement of a byte."""
_NO_NUMBER = 0x80
"""The complement, 0x7f in every byte, is as large as numbers are; in float16 it is none."""


@dataclass(frozen=True, eq=False)
class Fenced:
    """A flat tensor with storage of its own, before and behind which lies memory that no kernel may use.

    Args:
        values: The tensor.
        before: What its values were.
        around: The memory, with the fences; None for dtypes that have no value to recognise it by.
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
        """Whether something was written before or behind the tensor."""
        if self.around is None:
            return False
        fence = _FENCE // self.around.element_size()
        return not bool(self.around[:fence].isnan().all() & self.around[-fence:].isnan().all())

    def is_changed_besides(self, views: Sequence[tuple[tuple[int, ...], tuple[int, ...], int]]) -> bool:
        """Whether something was written where none of some views of it (sizes, strides, offset) has an element."""
        if sum(math.prod(sizes) for sizes, _, _ in views) >= self.before.numel():
            return False
        changed = self.values.detach() != self.before
        for sizes, strides, offset in views:
            changed.as_strided(sizes, strides, offset).fill_(False)
        return bool(changed.any())


@dataclass(frozen=True, eq=False)
class GuardedInputs:
    """The inputs of one run, in a copy of a sample's memory between fences.

    Args:
        sample: The sample.
        memory: The copies of its storages.
        values: The inputs: the layer's own tensors are leaves, others the results of a computation, as in a model.
    """

    sample: Sample
    memory: Mapping[int, Fenced]
    values: list[Any]

    @staticmethod
    def of(sample: Sample, *, gradient: bool) -> GuardedInputs:
        """Copy a sample.

        Args:
            sample: The sample.
            gradient: Whether gradients are wanted.
        """
        memory = {number: Fenced.copy_of(storage) for number, storage in sample.storages.items()}
        wanted = {spec.storage for spec in sample.specs if isinstance(spec, TensorSpec) and spec.requires_grad} if gradient else set()
        made = {n: _as_result(sample.storages[n], fenced) if n in wanted else fenced.values for n, fenced in memory.items()}
        values = [
            _input(spec, view, gradient) if isinstance(spec, TensorSpec) else view
            for spec, view in zip(sample.specs, sample.views_of(made), strict=True)
        ]
        return GuardedInputs(sample, memory, values)

    def changed_besides(self) -> list[int]:
        """Return positions of inputs around which memory has changed, though it is in none of them."""
        changed = {number for number, fenced in self.memory.items() if fenced.is_changed_besides(self._views_in(number))}
        return [n for n, spec in enumerate(self.sample.specs) if isinstance(spec, TensorSpec) and spec.storage in changed]

    def is_broken(self) -> bool:
        """Whether a fence was written to."""
        return any(fenced.is_broken() for fenced in self.memory.values())

    def _views_in(self, number: int) -> list[tuple[tuple[int, ...], tuple[int, ...], int]]:
        mine = [spec for spec in self.sample.specs if isinstance(spec, TensorSpec) and spec.storage == number]
        return [(spec.sizes, spec.strides, spec.offset - self.sample.starts[number]) for spec in mine]


def _input(spec: TensorSpec, view: torch.Tensor, gradient: bool) -> torch.Tensor:
    if not (gradient and spec.requires_grad):
        return view.detach()
    return view.detach().requires_grad_() if spec.of_layer else view


class _Result(torch.autograd.Function):
    """Memory of ours as the result of a computation."""

    @staticmethod
    def forward(ctx: Any, leaf: torch.Tensor, memory: Fenced) -> torch.Tensor:
        return memory.values

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return *gradients, None


def _as_result(storage: torch.Tensor, memory: Fenced) -> torch.Tensor:
    result: torch.Tensor = _Result.apply(storage.detach().requires_grad_(), memory)  # type: ignore[no-untyped-call]
    return result


@contextlib.contextmanager
def uncleared_memory(device: torch.device) -> Iterator[None]:
    """Memory that is allocated meanwhile is full of large numbers, where that can be had: zeros would hide that it was not cleared."""
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
