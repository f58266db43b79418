"""Sizes that are known only when a graph runs, as formulas over the symbols of its inputs' sizes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..samples import hints_of

_MOST_SYMBOLS = 3
_LARGEST_BLOCK = 17  # as a power of two
_LARGEST_UNIT = 256

Choice = dict[Any, int]
"""Values of the symbols."""


@dataclass(frozen=True, slots=True)
class Symbols:
    """The symbols in the sizes of a call's inputs, and where their values stand.

    Args:
        symbols: The symbols.
        places: For each of them an input, and the dimension whose size it is; -1 for an input that is the number itself.
        complete: Whether every symbol has such a place.
        integers: Positions of the inputs that are integers.
        floats: Positions of the inputs that are floating-point numbers.
    """

    symbols: tuple[Any, ...]
    places: tuple[tuple[int, int], ...]
    complete: bool
    integers: tuple[int, ...] = ()
    floats: tuple[int, ...] = ()

    @staticmethod
    def of(inputs: Sequence[Any]) -> Symbols:
        """Find the symbols of example values."""
        found: dict[Any, tuple[int, int]] = {}
        seen: set[Any] = set()
        for position, value in enumerate(inputs):
            tensor = isinstance(value, torch.Tensor)
            for dimension, size in enumerate(value.shape) if tensor else [(-1, value)]:
                if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                    found.setdefault(size.node.expr, (position, dimension))
            for size in (*value.shape, *value.stride(), value.storage_offset()) if tensor else (value,):
                if isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool):
                    seen |= size.node.expr.free_symbols
        integers = tuple(n for n, kind in enumerate(kinds(inputs)) if kind == "SymInt")
        floats = tuple(n for n, kind in enumerate(kinds(inputs)) if kind == "float")
        return Symbols(tuple(found), tuple(found.values()), seen <= found.keys(), integers, floats)

    def formula(self, size: Any) -> Formula | None:
        """Return a size of the inputs as a formula, if it is a number or a symbol."""
        if not isinstance(size, torch.SymInt):
            return Formula(size)
        expression = size.node.expr
        return Formula(1, (self.symbols.index(expression),)) if expression in self.symbols else None

    def numbers(self, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Return what one has to know of inputs besides tensors: the symbols' values and the integers, and the floating-point numbers.

        They are symbolic while somebody traces.
        """
        sizes = [inputs[position] if dimension < 0 else inputs[position].shape[dimension] for position, dimension in self.places]
        return [*sizes, *[inputs[n] for n in self.integers]], [inputs[n] for n in self.floats]


def choices(inputs: Sequence[Any], symbols: Symbols) -> list[Choice] | None:
    """Return values for the symbols in example values: those of the call, then others. None if those of the call are not known."""
    hints = hints_of(inputs)
    if not hints:
        return hints if hints is None else [{}]
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


def kinds(inputs: Sequence[Any]) -> list[str]:
    """Return the schema types of a call's inputs."""
    return [_kind(value) for value in inputs]


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "Tensor"
    return "float" if isinstance(value, float | torch.SymFloat) else "SymInt"


@dataclass(frozen=True, slots=True)
class Formula:
    """``(factor * product of symbols + added) // divisor``."""

    factor: int
    symbols: tuple[int, ...] = ()
    added: int = 0
    divisor: int = 1

    def at(self, values: Sequence[Any]) -> Any:
        """Return its value."""
        result: Any = self.factor
        for symbol in self.symbols:
            result = result * values[symbol]
        if self.added:
            result = result + self.added
        return result // self.divisor if self.divisor != 1 else result

    @staticmethod
    def through(observed: Sequence[int], samples: Sequence[Sequence[int]]) -> Formula | None:
        """Return a formula that gives each observed number from its sample of the symbols' values, the simplest first, or None."""
        if len(set(observed)) == 1:
            return Formula(observed[0])
        count = len(samples[0])
        choices = [c for n in range(1, _MOST_SYMBOLS + 1) for c in itertools.combinations_with_replacement(range(count), n)]
        for kind in (_multiple, _linear, _blocks):
            for symbols in choices:
                products = [Formula(1, symbols).at(sample) for sample in samples]
                for candidate in kind(observed, products, symbols):
                    if all(candidate.at(sample) == number for sample, number in zip(samples, observed, strict=True)):
                        return candidate
        return None


def _multiple(observed: Sequence[int], products: Sequence[int], symbols: tuple[int, ...]) -> list[Formula]:
    return [Formula(observed[0] // products[0], symbols)] if products[0] and observed[0] % products[0] == 0 else []


def _linear(observed: Sequence[int], products: Sequence[int], symbols: tuple[int, ...]) -> list[Formula]:
    rise, run = observed[1] - observed[0], products[1] - products[0]
    if not run or rise % run:
        return []
    return [Formula(rise // run, symbols, observed[0] - rise // run * products[0])]


def _blocks(observed: Sequence[int], products: Sequence[int], symbols: tuple[int, ...]) -> list[Formula]:
    sizes = [1 << exponent for exponent in range(1, _LARGEST_BLOCK)]
    return [Formula(1, symbols, added, block) for block in sizes for added in (block - 1, 0)]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a tensor is, without its values."""

    dtype: torch.dtype
    device: torch.device
    sizes: tuple[Formula, ...]
    strides: tuple[Formula, ...]

    @staticmethod
    def through(tensors: Sequence[torch.Tensor], samples: Sequence[Sequence[int]]) -> Layout | None:
        """Return the layout that these tensors have for these values of the symbols, or None if there is no formula for it."""
        first = tensors[0]
        if any((tensor.dtype, tensor.dim(), tensor.device) != (first.dtype, first.dim(), first.device) for tensor in tensors):
            return None
        sizes = [Formula.through([tensor.shape[d] for tensor in tensors], samples) for d in range(first.dim())]
        strides = [Formula.through([tensor.stride(d) for tensor in tensors], samples) for d in range(first.dim())]
        if None in sizes or None in strides:
            return None
        return Layout(first.dtype, first.device, tuple(sizes), tuple(strides))  # type: ignore[arg-type]

    def shape(self, values: Sequence[Any]) -> list[Any]:
        """Return the sizes."""
        return [size.at(values) for size in self.sizes]

    def empty(self, values: Sequence[Any], near: torch.Tensor | None = None) -> torch.Tensor:
        """Return a new tensor, on the device of `near` if that has the same type."""
        device = near.device if near is not None and near.device.type == self.device.type else self.device
        strides = [stride.at(values) for stride in self.strides]
        return torch.empty_strided(self.shape(values), strides, dtype=self.dtype, device=device)

    def fits(self, tensor: torch.Tensor, values: Sequence[Any]) -> bool:
        """Whether the tensor is like this, up to strides that are never used."""
        if tensor.dtype is not self.dtype or list(tensor.shape) != self.shape(values):
            return False
        if tensor.numel() == 0:
            return True
        return all(
            size == 1 or stride == formula.at(values)
            for size, stride, formula in zip(tensor.shape, tensor.stride(), self.strides, strict=True)
        )
