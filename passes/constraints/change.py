"""The smallest change of a call that a kernel turned away: with one thing different it would have been taken."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch

from .check import Refuted, check
from .expression import Condition, Literal, Measure, Reference, TargetFact, leaves, references
from .expression import Test as Question
from .facts import Facts, Opaque, TensorFacts
from .grammar import parse
from .lookup import Lookup
from .symbolic import next_pow2
from .values import UndefinedError

_USUAL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MOST_DIMENSIONS = 6
_MOST_SIZES = 16

Change = tuple[str, Facts]
"""A change in words, and the call with it."""


def smallest_change(constraints: Sequence[str | Condition], facts: Facts, failed: Condition) -> str:
    """Return what would have to be different for the call to meet all constraints, as a phrase; empty if no single change is found.

    Args:
        constraints: All constraints.
        facts: What is known of the call.
        failed: The clause that it does not meet.

    Example:
        >>> facts = Facts({"x": TensorFacts(torch.float32, (4, 100), (100, 1))})
        >>> smallest_change(["dim(x, -1) % 8 == 0"], facts, parse("dim(x, -1) % 8 == 0"))
        'with dim(x, -1) = 104'
    """
    conditions = [parse(text) if isinstance(text, str) else text for text in constraints]
    facts = _spoken_of(conditions, facts)
    # A layer's tensors are converted more easily than what is handed to it.
    read = sorted(dict.fromkeys(leaves(failed)), key=lambda leaf: not _is_dtype_of_layer(leaf))
    literals = [leaf.value for leaf in read if isinstance(leaf, Literal)]
    for phrase, changed in chain.from_iterable(_changes(leaf, literals, facts) for leaf in read):
        if not isinstance(check([failed], changed), Refuted) and not isinstance(check(conditions, changed), Refuted):
            return phrase
    return ""


def _spoken_of(conditions: Sequence[Condition], facts: Facts) -> Facts:
    """The call without what no constraint speaks of: a layer may have a hundred tensors."""
    paths = {reference.path for condition in conditions for reference in references(condition)}
    names = {".".join(step for step in path if isinstance(step, str)) for path in paths}
    arguments = {name: facts.arguments[name] for name in facts.arguments if name in names}
    attributes = {name: facts.attributes[name] for name in facts.attributes if name in names or f"self.{name}" in names}
    return replace(facts, arguments=arguments, attributes=attributes)


def _changes(leaf: Any, literals: list[Any], facts: Facts) -> Iterator[Change]:
    try:
        match leaf:
            case Measure("dtype" | "itemsize", of):
                yield from _dtypes(of, literals, facts)
            case Measure("dim" | "numel", of, index):
                yield from _sizes(of, -1 if index is None else index, literals, facts)
            case Measure("stride", of) | Question("contiguous", of):
                tensor = _tensor(of, facts)
                yield f"with {of} contiguous", _with(facts, of, replace(tensor, stride=_dense(tensor.shape)))
            case Measure("ndim", of):
                yield from _ranks(of, facts)
            case Measure("device", of):
                tensor = _tensor(of, facts)
                yield from ((f"with {of} on {text}", _with(facts, of, replace(tensor, device=text))) for text in _of(str, literals))
            case Question("requires_grad", of):
                tensor = _tensor(of, facts)
                wanted = "without" if tensor.requires_grad else "with"
                yield f"{wanted} a gradient for {of}", _with(facts, of, replace(tensor, requires_grad=not tensor.requires_grad))
            case Question("none", of):
                given = Lookup(facts).reference(of) is not None
                yield (f"without {of}", _with(facts, of, None)) if given else (f"with {of} given", _with(facts, of, Opaque("value")))
            case Reference():
                yield from _values(leaf, literals, facts)
            case TargetFact(word):
                yield from _of_target(word, literals, facts)
    except UndefinedError:
        return  # the call does not have it at all: no small change gives it one


def _dtypes(of: Reference, literals: list[Any], facts: Facts) -> Iterator[Change]:
    tensor = _tensor(of, facts)
    others = [value.dtype for value in (*facts.arguments.values(), *facts.attributes.values()) if isinstance(value, TensorFacts)]
    for dtype in dict.fromkeys((*_of(torch.dtype, literals), *others, *_USUAL_DTYPES)):
        if dtype != tensor.dtype and dtype.is_floating_point == tensor.dtype.is_floating_point:
            yield f"with {of} in {str(dtype).removeprefix('torch.')}", _with(facts, of, replace(tensor, dtype=dtype))


def _sizes(of: Reference, index: int, literals: list[Any], facts: Facts) -> Iterator[Change]:
    """Another size of this dimension; then the same wherever this size occurs, as that of a hidden size does."""
    tensor = _tensor(of, facts)
    place = Lookup(facts).resolved(Measure("dim", of, index)).index or 0
    size = tensor.shape[place]
    if type(size) is not int:
        return
    candidates = _near(size, [*_of(int, literals), *_known_sizes(facts)])
    for candidate in candidates:
        yield f"with dim({of}, {index}) = {candidate}", _with(facts, of, _resized(tensor, {place: candidate}))
    for candidate in candidates:
        yield f"with size {candidate} in the place of {size} everywhere", _everywhere(facts, size, candidate)


def _near(size: int, numbers: list[int]) -> list[int]:
    """Sizes that constraints are likely to want, the nearest first: multiples, powers of two, and what the clause or the call has."""
    steps = [number for number in numbers if 1 < number <= 1 << 20] + [2, 4, 8, 16, 32, 64, 128]
    multiples = [-(-size // step) * step for step in steps] + [size // step * step for step in steps]
    powers = [next_pow2(size), next_pow2(size) // 2]
    found = {*multiples, *powers, *(number + shift for number in numbers for shift in (0, 1, -1))} - {size}
    return sorted((n for n in found if n > 0), key=lambda n: (abs(n - size), -n))[:_MOST_SIZES]


def _known_sizes(facts: Facts) -> list[int]:
    tensors = [value for value in (*facts.arguments.values(), *facts.attributes.values()) if isinstance(value, TensorFacts)]
    return [size for tensor in tensors for size in tensor.shape if type(size) is int]


def _everywhere(facts: Facts, size: int, candidate: int) -> Facts:
    def resized(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(resized, value))
        if not isinstance(value, TensorFacts):
            return value
        return _resized(value, {place: candidate for place, own in enumerate(value.shape) if own == size})

    arguments, attributes = ({name: resized(value) for name, value in values.items()} for values in (facts.arguments, facts.attributes))
    return replace(facts, arguments=arguments, attributes=attributes)


def _resized(tensor: TensorFacts, changes: dict[int, int]) -> TensorFacts:
    """With other sizes; dense as before, if it was."""
    shape = tuple(changes.get(place, size) for place, size in enumerate(tensor.shape))
    return replace(tensor, shape=shape, stride=_dense(shape) if tensor.stride == _dense(tensor.shape) else tensor.stride)


def _ranks(of: Reference, facts: Facts) -> Iterator[Change]:
    tensor = _tensor(of, facts)
    rank = len(tensor.shape)
    for wanted in sorted(set(range(1, _MOST_DIMENSIONS)) - {rank}, key=lambda other: (abs(other - rank), other)):
        shape = (1,) * (wanted - rank) + tensor.shape[max(rank - wanted, 0) :]
        yield f"with {wanted} dimension{'s' * (wanted != 1)} in {of}", _with(facts, of, replace(tensor, shape=shape, stride=_dense(shape)))


def _values(of: Reference, literals: list[Any], facts: Facts) -> Iterator[Change]:
    """Another constant: the opposite, or one of those that the clause names."""
    value = Lookup(facts).reference(of)
    if isinstance(value, bool):
        yield f"with {of} = {not value}", _with(facts, of, not value)
        return
    if not isinstance(value, int | float | str):
        return
    numbers = sorted(_of(int, literals) + _of(float, literals), key=lambda number: abs(number - value) if not isinstance(value, str) else 0)
    near = [number + shift for number in numbers for shift in (0, 1, -1)]
    for other in _of(str, literals) if isinstance(value, str) else near:
        if other != value:
            yield f"with {of} = {other!r}", _with(facts, of, other)


def _of_target(word: str, literals: list[Any], facts: Facts) -> Iterator[Change]:
    match word:
        case "training":
            wanted = not facts.training
            yield f"in {'training' if wanted else 'eval'} mode", replace(facts, training=wanted)
        case "capability" if facts.capability is not None:  # a CPU will not have one
            for number in _of(int, literals):
                yield from ((f"on capability {value}", replace(facts, capability=value)) for value in (number, number + 1, number - 1))
        case "torch":
            yield from ((f"with torch {text}", replace(facts, torch=text)) for text in _of(str, literals))
        case "triton":
            yield from ((f"with triton {text}", replace(facts, triton=text)) for text in _of(str, literals))


def _is_dtype_of_layer(leaf: Any) -> bool:
    return isinstance(leaf, Measure) and leaf.word == "dtype" and leaf.of.path[0] == "self"


def _of(kind: type[Any], literals: list[Any]) -> list[Any]:
    return [value for value in literals if isinstance(value, kind) and isinstance(value, bool) is (kind is bool)]


def _tensor(of: Reference, facts: Facts) -> TensorFacts:
    return Lookup(facts).tensor(of)


def _dense(shape: Sequence[Any]) -> tuple[Any, ...]:
    strides: list[Any] = []
    stride: Any = 1
    for size in reversed(shape):
        strides.insert(0, stride)
        stride = stride * (size if size != 0 else 1)
    return tuple(strides)


def _with(facts: Facts, of: Reference, value: Any) -> Facts:
    """The call with another value for one argument or attribute, or for an element of one."""
    words = [step for step in of.path if isinstance(step, str)]
    indices = of.path[len(words) :]
    is_argument = words[0] != "self" and words[0] in facts.arguments
    name = ".".join(words[1:] if words[0] == "self" else words)
    values = facts.arguments if is_argument else facts.attributes
    changed: Any = ChainMap({name: _put(values[name], indices, value)}, values)  # type: ignore[arg-type]  # only read
    return replace(facts, arguments=changed) if is_argument else replace(facts, attributes=changed)


def _put(old: Any, indices: Sequence[Any], value: Any) -> Any:
    if not indices:
        return value
    items = list(old)
    items[indices[0]] = _put(items[indices[0]], indices[1:], value)
    return tuple(items)
