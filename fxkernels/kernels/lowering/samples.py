"""Random tensors like the inputs of a call, for several choices of its dynamic sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .layouts import Symbols

_LARGEST_UNIT = 256

Choice = dict[Any, int]
"""Values of the symbols."""


def choices(inputs: Sequence[Any], symbols: Symbols) -> list[Choice] | None:
    """Return values for the symbols in example values: those of the call, then others. None if those of the call are not known."""
    hints: Choice = {}
    for value in inputs:
        for size in (*value.shape, *value.stride(), value.storage_offset()) if isinstance(value, torch.Tensor) else (value,):
            if not isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool):
                continue
            if size.node.hint is None:
                return None
            if size.node.expr.is_Symbol:
                hints[size.node.expr] = size.node.hint
    if not hints:
        return [{}]
    if not symbols.complete:
        return None
    others = [_others(n, hint) for n, hint in enumerate(hints.values())]
    return [hints, *(dict(zip(hints, values, strict=True)) for values in zip(*others, strict=True))]


def _others(place: int, hint: int) -> tuple[int, int]:
    """Two more values for the symbol at this place: small, divisible as the call's is, and in no simple relation to those of others."""
    unit = min(hint & -hint, _LARGEST_UNIT)
    first = unit * (2 + place)
    second = unit * (3 + place + 2 * place * place)
    return first + 4 * unit * (first == hint), second + 5 * unit * (second == hint)


def number(size: Any, choice: Choice) -> Any:
    """Return a size, or another number, for a choice of the symbols."""
    if isinstance(size, torch.SymInt):
        return int(size.node.expr.xreplace(choice))
    if isinstance(size, torch.SymFloat):
        return float(size.node.expr.xreplace(choice))
    return bool(size.node.expr.xreplace(choice)) if isinstance(size, torch.SymBool) else size


def sizes_of(value: torch.Tensor, choice: Choice) -> list[int]:
    """Return a tensor's sizes for a choice of the symbols."""
    return [number(size, choice) for size in value.shape]


def sample(inputs: Sequence[Any], choice: Choice, seed: int) -> list[Any]:
    """Return inputs like these examples: real tensors with the same dtypes and strides.

    Floating-point values are random and differ by the seed. Integers are zeros, and booleans true: nothing that is used as an index or a
    size reaches outside.
    """
    return [_sample(value, choice, seed + 1000 * n) for n, value in enumerate(inputs)]


def random_like(tensor: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Return a random tensor with the same sizes, strides, dtype and device."""
    return _filled(torch.empty_like(tensor.detach()), seed)


def _sample(example: Any, choice: Choice, seed: int) -> Any:
    if not isinstance(example, torch.Tensor):
        return number(example, choice)
    sizes, strides = sizes_of(example, choice), [number(stride, choice) for stride in example.stride()]
    return _filled(torch.empty_strided(sizes, strides, dtype=example.dtype, device=example.device), seed)


def _filled(whole: torch.Tensor, seed: int) -> torch.Tensor:
    tensor = whole
    if tensor.dtype is torch.bool:
        tensor.fill_(True)
    elif tensor.is_floating_point() or tensor.is_complex():
        generator = torch.Generator(tensor.device).manual_seed(seed)
        wide = torch.complex64 if tensor.is_complex() else torch.float32
        values = torch.randn(tensor.shape, dtype=wide, device=tensor.device, generator=generator)
        # An expanded tensor has fewer elements than values; the first row will do for all.
        for dimension, stride in enumerate(tensor.stride()):
            if stride == 0 and tensor.shape[dimension] > 1:
                values, tensor = values.narrow(dimension, 0, 1), tensor.narrow(dimension, 0, 1)
        tensor.copy_(values)
    else:
        tensor.zero_()
    return whole
