"""Whether a condition holds for a call: yes, no, or not known as long as sizes are dynamic.

What a call does not have meets no clause: ``dim(x, -1) == 4`` and ``not dim(x, -1) == 4`` both fail for None. So an undefined comparison is
false in its place, whichever way it is asked, and negations are carried down to the comparisons. (Kleene's logic, with "undefined" between
false and true and only true accepted; ``none(x) or dim(x, -1) == 4`` holds for None, in either order.)

What holds for all values of dynamic sizes is what torch knows: its shape environment has their ranges, divisors and all guards so far.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from .call_facts import CallFacts, Size, TensorFacts, UndefinedError, described
from .expression import (
    Arithmetic,
    Compare,
    Condition,
    Function,
    Literal,
    Measure,
    Member,
    Not,
    Question,
    Reference,
    TargetFact,
    Term,
    leaves,
    parts_of,
)
from .vocabulary import MEASURES, TARGET_FACTS, TESTS

_PYTHON: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}
_WORDS = {**MEASURES, **TARGET_FACTS}
_SYMBOLIC = (torch.SymInt, torch.SymFloat)


class Release(tuple[int, ...]):
    """A version as its numbers, without zeros at the end; suffixes such as ``rc1`` and ``+cpu`` do not count."""

    @classmethod
    def of(cls, version: str) -> Release:
        numbers = [int(number) for number in re.findall(r"\d+", (re.match(r"[\d.]*", version) or [""])[0])]
        while numbers and numbers[-1] == 0:
            numbers.pop()
        return cls(numbers)


class _UnknownError(Exception):
    """The value of a term depends on sizes that are not known."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Evaluates conditions for one call.

    Args:
        call: The call.
        guarding: Whether a comparison of dynamic sizes is answered by the sizes that there are now, which makes it a guard of the graph.
            By default it is answered only if it is the same for all sizes that the capture allows, and no guard is made.
    """

    call: CallFacts
    guarding: bool = False

    def holds(self, condition: Condition, wanted: bool = True) -> bool | None:
        """Return whether the condition holds, or with ``wanted=False`` whether its opposite does; None if that is not known."""
        parts = parts_of(condition, wanted)
        if parts is None:
            return self._atom(condition, wanted)
        needs_all, inner = parts
        return _three(all if needs_all else any, [self.holds(*part) for part in inner])

    def support(self, condition: Condition, wanted: bool = True) -> list[Condition]:
        """Return comparisons and questions, or their opposites, that hold and suffice for the condition to hold.

        The condition holds by what is known (with ``wanted=False``: its opposite does). Of an ``or`` that is one of its parts.
        """
        parts = parts_of(condition, wanted)
        if parts is None:
            return [condition if wanted else Not(condition)]
        needs_all, inner = parts
        needed = inner if needs_all else [next(part for part in inner if self.holds(*part) is True)]
        return [atom for part in needed for atom in self.support(*part)]

    def code(self, clause: Condition) -> str:
        """Return the miss code of a clause that is false."""
        return next((self._code(atom) for atom in self._failures(clause)), "condition_false")

    def found(self, clause: Condition) -> str:
        """Return what a clause reads and what that is, each once: ``dim(x, -1) is 100``."""
        found = [self._found(leaf) for leaf in leaves(clause) if not isinstance(leaf, Literal)]
        return ", ".join(dict.fromkeys(found)) or "it never holds"

    # --- conditions: True, False, or None for not known

    def _atom(self, atom: Condition, wanted: bool) -> bool | None:
        match atom:
            case Compare(_, rest):
                answers = [self._compare(sign, left, right, wanted) for left, (sign, right) in zip(_terms(atom), rest, strict=False)]
                return _three(all if wanted else any, answers)
            case Member(term, options):
                return _three(any if wanted else all, [self._compare("==", term, option, wanted) for option in options])
        return _wished(lambda: self._question(atom), wanted)

    def _compare(self, sign: str, left: Term, right: Term, wanted: bool) -> bool | None:
        return _wished(lambda: self._compare_values(sign, self.term(left), self.term(right)), wanted)

    def _compare_values(self, sign: str, left: Any, right: Any) -> bool | None:
        if isinstance(left, Release) is not isinstance(right, Release):  # the grammar has seen to it that the other one is a version
            left, right = (Release.of(value) if isinstance(value, str) else value for value in (left, right))
        if sign not in ("==", "!="):
            for value in (left, right):
                if not _is_number(value) and not isinstance(value, Release):
                    raise UndefinedError("condition_false", f"{described(value)} is not a number")
        if isinstance(left, _SYMBOLIC) or isinstance(right, _SYMBOLIC):
            self._check_exact(left, right)
            left, right = (int(value) if isinstance(value, bool) else value for value in (left, right))
        return self._answer(_PYTHON[sign](left, right))

    def _answer(self, answer: bool | torch.SymBool) -> bool | None:
        """What is known of a comparison of sizes."""
        if not isinstance(answer, torch.SymBool) or self.guarding:
            return bool(answer)
        if statically_known_true(answer):
            return True
        return False if statically_known_true(torch.sym_not(answer)) else None  # type: ignore[no-untyped-call]  # torch has no types for it

    def _question(self, atom: Condition) -> bool | None:
        match atom:
            case Question("contiguous", of):
                return self._contiguous(self.call.tensor(of), of)
            case Question("none", of):
                return self.call.value(of) is None
            case Question("requires_grad", of):
                return self.call.tensor(of).requires_grad
            case Literal() | Reference() | TargetFact():
                value = self.term(atom)
                if isinstance(value, bool):
                    return value
                raise UndefinedError("condition_false", f"{atom} is {described(value)}, neither True nor False")
        raise TypeError(f"{atom!r} is no condition")

    def _contiguous(self, tensor: TensorFacts, of: Reference) -> bool | None:
        """As torch defines it: strides of dimensions of size 1 do not count, and a tensor without elements is contiguous."""
        if tensor.stride is None:
            raise UndefinedError("layout", f"{of} has no strides")
        expected: Size = 1
        dense: list[bool | None] = []
        for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
            dense.append(_three(any, [self._answer(size == 1), self._answer(stride == expected)]))
            expected = expected * size
        return _three(any, [_three(all, dense), self._answer(expected == 0)])

    # --- terms

    def term(self, term: Term) -> Any:
        """Return the value of a term: a number, another constant, or a `Release`.

        Raises:
            UndefinedError: If it has none.
        """
        match term:
            case Literal(value):
                return value
            case Measure():
                return self._measure(term)
            case Reference():
                value = self.call.value(term)
                if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.SymInt | torch.SymFloat):
                    return value
                raise UndefinedError("condition_false", f"{term} is {described(value)}, not a constant")
            case TargetFact(word):
                value = getattr(self.call, word)
                if value is None:
                    raise UndefinedError(TARGET_FACTS[word].code, f"{word} is not {'installed' if word == 'triton' else 'known'}")
                return Release.of(value) if isinstance(value, str) else value
            case Arithmetic(sign, left, right):
                return self._arithmetic(sign, *self._numbers((left, right)))
            case Function(word, arguments):
                return self._function(word, self._numbers(arguments))

    def _measure(self, measure: Measure) -> Any:
        if measure.word in ("dim", "stride"):
            return self.call.size(measure)
        tensor = self.call.tensor(measure.of)
        match measure.word:
            case "numel":
                return reduce(operator.mul, tensor.shape, 1)
            case "ndim":
                return len(tensor.shape)
            case "itemsize":
                return tensor.dtype.itemsize
            case "dtype":
                return tensor.dtype
        return tensor.device

    def _arithmetic(self, sign: str, left: Any, right: Any) -> Any:
        if sign in ("//", "%") and any(isinstance(value, float | torch.SymFloat) for value in (left, right)):
            raise UndefinedError("condition_false", f"{described(left)} {sign} {described(right)} is not of whole numbers")
        self._check_exact(left, right)
        # torch would take it for granted that a divisor is not zero.
        if sign in ("//", "%") and (is_zero := self._answer(right == 0)) is not False:
            raise ZeroDivisionError if is_zero else _UnknownError
        return _PYTHON[sign](left, right)

    def _function(self, word: str, values: list[Any]) -> Any:
        self._check_exact(*values)
        if word == "next_pow2":
            return self._next_power_of_two(*values)
        if not self.guarding and any(isinstance(value, _SYMBOLIC) for value in values):  # else Python's, which guards the larger one
            return (torch.sym_min if word == "min" else torch.sym_max)(*values)  # type: ignore[no-untyped-call]
        return min(values) if word == "min" else max(values)

    def _next_power_of_two(self, value: Any) -> int:
        if isinstance(value, float):
            raise UndefinedError("condition_false", f"next_pow2 of {value!r}, which is no whole number")
        power = 1  # a torch.SymInt has no bit_length
        while (is_smaller := self._answer(power < value)) is not False:
            if is_smaller is None:
                raise _UnknownError
            power *= 2
        return power

    def _numbers(self, terms: tuple[Term, ...]) -> list[Any]:
        values = [self.term(term) for term in terms]
        for term, value in zip(terms, values, strict=True):
            if not _is_number(value):
                raise UndefinedError("condition_false", f"{term} is {described(value)}, not a number")
        return values

    def _check_exact(self, *values: Any) -> None:
        """Of floats and dynamic sizes together nothing is said for all sizes: sympy does not add floats in Python's order."""
        if self.guarding or not any(isinstance(value, _SYMBOLIC) for value in values):
            return
        if any(isinstance(value, float | torch.SymFloat) for value in values):
            raise _UnknownError

    # --- why a clause is false

    def _failures(self, condition: Condition, wanted: bool = True) -> list[Condition]:
        """The comparisons and questions because of which a condition is false."""
        parts = parts_of(condition, wanted)
        if parts is not None:
            return [failure for part in parts[1] for failure in self._failures(*part)]
        return [condition] if self._atom(condition, wanted) is False else []

    def _code(self, atom: Condition) -> str:
        if isinstance(atom, Question):
            return self._undefined(lambda: self.call.value(atom.of)) or TESTS[atom.word].code
        undefined = [self._undefined(lambda term=term: self.term(term)) for term in _terms(atom)]  # type: ignore[misc]
        named = [_WORDS[leaf.word].code for leaf in leaves(atom) if isinstance(leaf, Measure | TargetFact)]
        return next((code for code in (*undefined, *named) if code is not None), "condition_false")

    def _undefined(self, look: Callable[[], Any]) -> str | None:
        try:
            look()
        except UndefinedError as error:
            return error.code
        except (ArithmeticError, _UnknownError):
            pass  # a division by zero: the clause is about its terms
        return None

    def _found(self, leaf: Reference | Measure | TargetFact | Question) -> str:
        call = self.call
        try:
            match leaf:
                case Question("contiguous", of):
                    tensor = call.tensor(of)
                    return f"{of} has sizes {list(tensor.shape)} and strides {list(tensor.stride or ())}"
                case Question("requires_grad", of):
                    return f"{leaf} is {call.tensor(of).requires_grad}"
                case Question(_, of) | (Reference() as of):
                    return f"{of} is {described(call.value(of))}"
                case TargetFact(word):
                    return f"{leaf} is {getattr(call, word)}" if self.term(leaf) is not None else ""
            return f"{leaf} is {described(self.term(leaf))}"
        except UndefinedError as error:
            return error.reason


def _terms(atom: Condition) -> tuple[Term, ...]:
    match atom:
        case Compare(first, rest):
            return (first, *(term for _, term in rest))
        case Member(term, options):
            return (term, *options)
        case Literal() | Reference() | TargetFact():
            return (atom,)
    raise TypeError(f"{atom} is neither a comparison nor a constant")


def _wished(look: Callable[[], bool | None], wanted: bool) -> bool | None:
    """Whether an answer is the one that is wanted. What is undefined never is."""
    try:
        answer = look()
    except (UndefinedError, ArithmeticError):
        return False
    except _UnknownError:
        return None
    return None if answer is None else answer is wanted


def _three(quantifier: Callable[[Iterable[bool]], bool], answers: list[bool | None]) -> bool | None:
    """`all` or `any` of answers of which some are not known."""
    pessimistic, optimistic = quantifier(a is True for a in answers), quantifier(a is not False for a in answers)
    return pessimistic if pessimistic == optimistic else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | torch.SymInt | torch.SymFloat) and not isinstance(value, bool)
