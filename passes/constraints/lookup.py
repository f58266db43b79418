"""The values of terms for one call: what the facts have, and what is computed from it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy

from .expression import Arithmetic, Function, Literal, Measure, Reference, TargetFact, Term
from .facts import Facts, Opaque, TensorFacts
from .values import UNDECIDED, Release, UndefinedError, arithmetic, described, function, is_number
from .vocabulary import DTYPES, TARGET_FACTS


@dataclass(frozen=True, slots=True)
class Lookup:
    """Finds the values of terms.

    Args:
        facts: What is known of the call.
        values: What has become known since: sizes, strides and numbers that are expressions in the facts, by what is read.
    """

    facts: Facts
    values: Mapping[Term, Any] = field(default_factory=dict)

    def term(self, term: Term) -> Any:
        """Return the value of a term: a number, an integer expression, another constant, a `Release`, or `UNDECIDED`.

        Raises:
            UndefinedError: If it has none.
        """
        match term:
            case Literal(value):
                return value
            case Measure():
                return self.measure(term)
            case Reference():
                return self._constant(term)
            case TargetFact(word):
                return self.target_fact(word)
            case Arithmetic(operator, left, right):
                return self._arithmetic(operator, left, right)
            case Function(word, arguments):
                return function(word, *self._numbers(arguments))

    def reference(self, reference: Reference) -> Any:
        """Return the argument or attribute as the facts have it.

        Raises:
            UndefinedError: If there is none.
        """
        facts, first, rest = self.facts, str(reference.path[0]), reference.path[1:]
        if first != "self":
            if first not in facts.arguments and first not in facts.attributes:
                raise UndefinedError("signature", self._no_such(first))
            value = facts.arguments[first] if first in facts.arguments else facts.attributes[first]
        else:
            words = [str(step) for step in rest if isinstance(step, str)]
            rest = rest[len(words) :]
            name = ".".join(words)
            if name not in facts.attributes:
                raise UndefinedError("missing_attribute", f"the layer has no {name}, only: {', '.join(facts.attributes) or 'nothing'}")
            value = facts.attributes[name]
        for index in rest:
            if not isinstance(value, tuple) or not isinstance(index, int) or not -len(value) <= index < len(value):
                raise UndefinedError("condition_false", f"there is no {reference}: {first} is {described(value)}")
            value = value[index]
        return value

    def tensor(self, reference: Reference) -> TensorFacts:
        """Return the argument or attribute, which must be a tensor.

        Raises:
            UndefinedError: If there is none, or it is something else.
        """
        value = self.reference(reference)
        if isinstance(value, TensorFacts):
            return value
        raise UndefinedError("condition_false", f"{reference} is {described(value)}" + ("" if value is None else ", not a tensor"))

    def measure(self, measure: Measure) -> Any:
        """Return what is read off a tensor.

        Raises:
            UndefinedError: If it is no tensor, or has no such dimension.
        """
        tensor = self.tensor(measure.of)
        match measure.word:
            case "dim":
                return self._size(measure, tensor.shape)
            case "stride":
                if tensor.stride is None:
                    raise UndefinedError("layout", f"{measure.of} has no strides")
                return self._size(measure, tensor.stride)
            case "numel":
                total: Any = 1
                for index in range(len(tensor.shape)):
                    total = total * self._size(Measure("dim", measure.of, index), tensor.shape)
                return total
            case "ndim":
                return len(tensor.shape)
            case "itemsize":
                return tensor.dtype.itemsize
            case "dtype":
                return tensor.dtype
        return tensor.device

    def target_fact(self, word: str) -> Any:
        """Return capability, a version or the training flag.

        Raises:
            UndefinedError: If it is not known.
        """
        value = getattr(self.facts, word)
        if value is None:
            raise UndefinedError(TARGET_FACTS[word].code, f"{word} is not installed" if word == "triton" else f"{word} is not known")
        return Release.of(value) if isinstance(value, str) else value

    def resolved(self, measure: Measure) -> Measure:
        """Return the measure with its dimension counted from the front: ``dim(x, 2)`` for ``dim(x, -1)``.

        Raises:
            UndefinedError: If the tensor has no such dimension.
        """
        rank, index = len(self.tensor(measure.of).shape), measure.index or 0
        if not -rank <= index < rank:
            raise UndefinedError("rank", f"{measure.of} has {rank} dimension{'s' * (rank != 1)}")
        return Measure(measure.word, measure.of, index % rank)

    def raw(self, place: Measure | Reference) -> Any:
        """Return what the facts have for an argument, or for a size or stride whose dimension is counted from the front."""
        if isinstance(place, Reference):
            return self.reference(place)
        tensor = self.tensor(place.of)
        return (tensor.shape if place.word == "dim" else tensor.stride or ())[place.index or 0]

    def _size(self, measure: Measure, sizes: tuple[Any, ...]) -> Any:
        place = self.resolved(measure)
        value = sizes[place.index or 0]
        return value if type(value) is int else self._known(place, value)

    def _known(self, place: Term, value: Any) -> Any:
        """An expression of the facts: its value by now, or itself if it is an integer, else nothing can be said of it."""
        if place in self.values:
            return self.values[place]
        if value.is_Integer:
            return int(value)
        return value if value.is_integer else UNDECIDED

    def _constant(self, reference: Reference) -> Any:
        value = self.reference(reference)
        if isinstance(value, sympy.Expr):
            return self._known(reference, value)
        if isinstance(value, TensorFacts | Opaque | tuple):
            raise UndefinedError("condition_false", f"{reference} is {described(value)}, not a constant")
        return value

    def _arithmetic(self, operator: str, left: Term, right: Term) -> Any:
        one, other = self._numbers((left, right))
        return arithmetic(operator, one, other, self.facts.symbols)

    def _numbers(self, terms: tuple[Term, ...]) -> list[Any]:
        values = [self.term(term) for term in terms]
        for term, value in zip(terms, values, strict=True):
            if not is_number(value) and value is not UNDECIDED:
                raise UndefinedError("condition_false", f"{term} is {described(value)}, not a number")
        return values

    def _no_such(self, name: str) -> str:
        present = ", ".join(self.facts.arguments) or "none"
        attributes = ", ".join(f"self.{attribute}" for attribute in self.facts.attributes)
        near = difflib.get_close_matches(name, [*self.facts.arguments, *DTYPES, *TARGET_FACTS], 1)
        reason = f"there is no {name}; the call's arguments are {present}" + (
            f", the layer's attributes {attributes}" if attributes else ""
        )
        return reason + (f"; did you mean {near[0]}?" if near else "")
