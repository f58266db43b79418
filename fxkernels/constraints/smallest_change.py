"""The smallest change of a call that a kernel turned away: with one thing different it would have been taken."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch

from .call_facts import CallFacts, Size, TensorFacts, UndefinedError
from .evaluate import Evaluation
from .expression import Condition, Literal, Measure, Question, Reference, TargetFact, leaves, references

_USUAL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MOST_DIMENSIONS = 6
_MOST_SIZES = 16

Change = tuple[str, CallFacts]
"""A change in words, and the call with it."""


def smallest_change(conditions: Sequence[Condition], call: CallFacts, failed: Condition) -> str:
    """Return what would have to be different for the call to meet all conditions, as a phrase; empty if no single change is found.

    Args:
        conditions: All conditions.
        call: The call.
        failed: The clause that it does not meet.

    Example:
        >>> call = CallFacts({"x": torch.empty(4, 100)})
        >>> smallest_change([parse("dim(x, -1) % 8 == 0")], call, parse("dim(x, -1) % 8 == 0"))
        'with dim(x, -1) = 104'
    """
    # A layer's tensors are converted more easily than what is handed to it.
    read = sorted(dict.fromkeys(leaves(failed)), key=lambda leaf: not _is_dtype_of_layer(leaf))
    changes = _Changes(call, conditions, [leaf.value for leaf in read if isinstance(leaf, Literal)])
    for phrase, changed in chain.from_iterable(map(changes.of, read)):
        if all(Evaluation(changed).holds(condition) is not False for condition in (failed, *conditions)):
            return phrase
    return ""


@dataclass(frozen=True, slots=True)
class _Changes:
    """Changes of a call that its constraints are likely to want.

    Args:
        call: The call.
        conditions: All conditions.
        literals: The constants in the clause that fails.
    """

    call: CallFacts
    conditions: Sequence[Condition]
    literals: list[Any]

    def of(self, leaf: Any) -> Iterator[Change]:
        """Yield changes of what a clause reads, the smallest first."""
        try:
            match leaf:
                case Measure("dtype" | "itemsize", of):
                    yield from self._dtypes(of)
                case Measure("dim" | "numel", of):
                    yield from self._sizes(leaf)
                case Measure("stride", of) | Question("contiguous", of):
                    tensor = self.call.tensor(of)
                    yield self._with(of, replace(tensor, stride=_dense(tensor.shape)), f"with {of} contiguous")
                case Measure("ndim", of):
                    yield from self._ranks(of)
                case Measure("device", of):
                    tensor = self.call.tensor(of)
                    yield from (self._with(of, replace(tensor, device=text), f"with {of} on {text}") for text in self._literals(str))
                case Question("requires_grad", of):
                    tensor = self.call.tensor(of)
                    wanted = "without" if tensor.requires_grad else "with"
                    yield self._with(of, replace(tensor, requires_grad=not tensor.requires_grad), f"{wanted} a gradient for {of}")
                case Question("none", of):
                    is_none = self.call.value(of) is None
                    yield self._with(of, object(), f"with {of} given") if is_none else self._with(of, None, f"without {of}")
                case Reference():
                    yield from self._constants(leaf)
                case TargetFact(word):
                    yield from self._target_facts(word)
        except UndefinedError:
            return  # the call does not have it at all: no small change gives it one

    def _with(self, of: Reference, value: Any, phrase: str) -> Change:
        return phrase, replace(self.call, changed={self.call.place(of): value})

    def _literals(self, kind: type[Any]) -> list[Any]:
        return [value for value in self.literals if isinstance(value, kind) and not isinstance(value, bool)]

    def _tensors(self) -> dict[Reference, TensorFacts]:
        """The tensors that constraints speak of."""
        found = {}
        for reference in chain.from_iterable(map(references, self.conditions)):
            try:
                found[self.call.place(reference)] = self.call.tensor(reference)
            except UndefinedError:
                continue
        return dict(sorted(found.items(), key=lambda item: str(item[0])))

    def _dtypes(self, of: Reference) -> Iterator[Change]:
        tensor = self.call.tensor(of)
        others = [other.dtype for other in self._tensors().values()]
        for dtype in dict.fromkeys((*self._literals(torch.dtype), *others, *_USUAL_DTYPES)):
            if dtype != tensor.dtype and dtype.is_floating_point == tensor.dtype.is_floating_point:
                yield self._with(of, replace(tensor, dtype=dtype), f"with {of} in {str(dtype).removeprefix('torch.')}")

    def _sizes(self, measure: Measure) -> Iterator[Change]:
        """Another size of this dimension; then the same wherever this size occurs, as that of a hidden size does."""
        of, index = measure.of, -1 if measure.index is None else measure.index
        tensor, size = self.call.tensor(of), self.call.size(Measure("dim", of, index))
        if not isinstance(size, int):
            return
        tensors = self._tensors()
        candidates = _near(
            size, [*self._literals(int), *(each for other in tensors.values() for each in other.shape if isinstance(each, int))]
        )
        for candidate in candidates:
            shape = list(tensor.shape)
            shape[index] = candidate
            yield self._with(of, self._resized(of, shape), f"with dim({of}, {index}) = {candidate}")
        for candidate in candidates:
            everywhere = {
                place: self._resized(place, [candidate if isinstance(each, int) and each == size else each for each in other.shape])
                for place, other in tensors.items()
            }
            yield f"with size {candidate} instead of {size} everywhere", replace(self.call, changed=everywhere)

    def _resized(self, of: Reference, shape: Sequence[Size]) -> TensorFacts:
        """The tensor with other sizes; contiguous as before, if it was."""
        tensor = self.call.tensor(of)
        was_contiguous = Evaluation(self.call).holds(Question("contiguous", of)) is True
        return replace(tensor, shape=tuple(shape), stride=_dense(shape) if was_contiguous else tensor.stride)

    def _ranks(self, of: Reference) -> Iterator[Change]:
        tensor = self.call.tensor(of)
        rank = len(tensor.shape)
        for wanted in sorted(set(range(1, _MOST_DIMENSIONS)) - {rank}, key=lambda other: (abs(other - rank), other)):
            shape = (1,) * (wanted - rank) + tensor.shape[max(rank - wanted, 0) :]
            changed = replace(tensor, shape=shape, stride=_dense(shape))
            yield self._with(of, changed, f"with {wanted} dimension{'s' * (wanted != 1)} in {of}")

    def _constants(self, of: Reference) -> Iterator[Change]:
        """Another constant: the opposite, or one of those that the clause names."""
        value = self.call.value(of)
        match value:
            case bool():
                others: list[Any] = [not value]
            case str():
                others = self._literals(str)
            case int() | float():
                numbers = sorted([*self._literals(int), *self._literals(float)], key=lambda number: abs(number - value))
                others = [number + shift for number in numbers for shift in (0, 1, -1)]
            case _:
                return
        yield from (self._with(of, other, f"with {of} = {other!r}") for other in others if other != value)

    def _target_facts(self, word: str) -> Iterator[Change]:
        call = self.call
        match word:
            case "training":
                yield f"in {'eval' if call.training else 'training'} mode", replace(call, training=not call.training)
            case "capability" if call.capability is not None:  # a CPU will not have one
                numbers = [number + shift for number in self._literals(int) for shift in (0, 1, -1)]
                yield from ((f"on capability {number}", replace(call, capability=number)) for number in numbers)
            case "torch":
                yield from ((f"with torch {text}", replace(call, torch=text)) for text in self._literals(str))
            case "triton":
                yield from ((f"with triton {text}", replace(call, triton=text)) for text in self._literals(str))


def _is_dtype_of_layer(leaf: Any) -> bool:
    return isinstance(leaf, Measure) and leaf.word == "dtype" and leaf.of.path[0] == "self"


def _near(size: int, numbers: list[int]) -> list[int]:
    """Sizes that constraints are likely to want, the nearest first: multiples, powers of two, and what the clause or the call has."""
    steps = [number for number in numbers if 1 < number <= 1 << 20] + [2, 4, 8, 16, 32, 64, 128]
    multiples = [-(-size // step) * step for step in steps] + [size // step * step for step in steps]
    power = 1 << max(size - 1, 0).bit_length()
    found = {*multiples, power, power // 2, *(number + shift for number in numbers for shift in (0, 1, -1))} - {size}
    return sorted((n for n in found if n > 0), key=lambda n: (abs(n - size), -n))[:_MOST_SIZES]


def _dense(shape: Sequence[Size]) -> tuple[Size, ...]:
    return tuple(
        [math.prod(size if not isinstance(size, int) else max(size, 1) for size in shape[place + 1 :]) for place in range(len(shape))]
    )
