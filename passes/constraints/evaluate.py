"""Whether a condition holds: yes, no, or what is left of it to be found out.

What a call does not have meets no clause: ``dim(x, -1) == 4`` and ``not dim(x, -1) == 4`` both fail for None. So an undefined comparison is
false in its place, whichever way it is asked, and negations are carried down to the comparisons. (Kleene's logic, with "undefined" between
false and true and only true accepted; ``none(x) or dim(x, -1) == 4`` holds for None, in either order.)
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import sympy

from .expression import And, Compare, Condition, Implies, Literal, Measure, Member, Not, Or, Reference, TargetFact, Term, leaves
from .expression import Test as Question
from .lookup import Lookup
from .values import UNDECIDED, Release, UndefinedError, described, is_number
from .vocabulary import MEASURES, TARGET_FACTS, TESTS

Verdict = bool | Condition
"""True, False, or the condition that is left."""

_PYTHON: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
}


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges conditions by what is known of one call."""

    lookup: Lookup

    def verdict(self, condition: Condition, wanted: bool = True) -> Verdict:
        """Return whether the condition holds, or with ``wanted=False`` whether its opposite does."""
        match condition:
            case And(parts) | Or(parts):
                verdicts = [self.verdict(part, wanted) for part in parts]
                return _all(verdicts) if isinstance(condition, And) is wanted else _any(verdicts)
            case Not(part):
                return self.verdict(part, not wanted)
            case Implies(premise, conclusion):
                verdicts = [self.verdict(premise, not wanted), self.verdict(conclusion, wanted)]
                return _any(verdicts) if wanted else _all(verdicts)
        answer = self._atom(condition, wanted)
        if answer is None:
            return condition if wanted else Not(condition)
        return answer

    def failures(self, condition: Condition, wanted: bool = True) -> list[Condition]:
        """Return the comparisons and questions because of which a condition is false; of an implication, those of the conclusion first."""
        match condition:
            case And(parts) | Or(parts):
                return [failure for part in parts for failure in self.failures(part, wanted)]
            case Not(part):
                return self.failures(part, not wanted)
            case Implies(premise, conclusion):
                return [*self.failures(conclusion, wanted), *self.failures(premise, not wanted)]
        return [condition] if self._atom(condition, wanted) is False else []

    def support(self, condition: Condition, wanted: bool = True) -> list[Condition]:
        """Return comparisons and questions, or their opposites, that hold and suffice for the condition to hold.

        The condition holds by what is known (with ``wanted=False``: its opposite does). Of an ``or`` that is one of its parts.
        """
        match condition:
            case And(parts) | Or(parts):
                wishes = [(part, wanted) for part in parts]
                needs_all = isinstance(condition, And) is wanted
            case Not(part):
                return self.support(part, not wanted)
            case Implies(premise, conclusion):
                wishes, needs_all = [(premise, not wanted), (conclusion, wanted)], not wanted
            case _:
                return [condition if wanted else Not(condition)]
        if not needs_all:
            wishes = [next(wish for wish in wishes if self.verdict(*wish) is True)]
        return [atom for wish in wishes for atom in self.support(*wish)]

    def code(self, atom: Condition) -> str:
        """Return the miss code of a comparison or question that is false."""
        match atom:
            case Compare(first, rest):
                terms: tuple[Term, ...] = (first, *(term for _, term in rest))
            case Member(term, options):
                terms = (term, *options)
            case Question(word, of):
                return self._undefined(lambda: self.lookup.reference(of)) or TESTS[word].code
            case Literal() | Reference() | TargetFact():
                terms = (atom,)
            case _:
                raise TypeError(f"{atom} is neither a comparison nor a question")
        undefined = [self._undefined(lambda term=term: self.lookup.term(term)) for term in terms]  # type: ignore[misc]
        named = [code for term in terms for code in _codes(term)]
        return next((code for code in (*undefined, *named) if code is not None), "condition_false")

    def _undefined(self, look: Callable[[], Any]) -> str | None:
        try:
            look()
        except UndefinedError as error:
            return error.code
        except ArithmeticError:
            pass  # a division by zero: the clause is about its terms
        return None

    # --- comparisons and questions: True, False, or None for not known

    def _atom(self, atom: Condition, wanted: bool) -> bool | None:
        match atom:
            case Compare(first, rest):
                if len(rest) == 1:
                    return self._compare(rest[0][0], first, rest[0][1], wanted)
                lefts = (first, *(term for _, term in rest))
                answers = [self._compare(sign, left, right, wanted) for left, (sign, right) in zip(lefts, rest, strict=False)]
                return _three(all if wanted else any, answers)
            case Member(term, options):
                return _three(any if wanted else all, [self._compare("==", term, option, wanted) for option in options])
        try:
            answer = self._question(atom)
        except UndefinedError:
            return False
        return None if answer is None else answer is wanted

    def _compare(self, sign: str, left: Term, right: Term, wanted: bool) -> bool | None:
        try:
            answer = self._compare_values(sign, self.lookup.term(left), self.lookup.term(right))
        except (UndefinedError, ArithmeticError):
            return False
        return None if answer is None else answer is wanted

    def _compare_values(self, sign: str, left: Any, right: Any) -> bool | None:
        if type(left) is int and type(right) is int:  # the common case, at each call of a guarded kernel
            return bool(_PYTHON[sign](left, right))
        if isinstance(left, Release) is not isinstance(right, Release):  # the grammar has seen to it that the other one is a version
            left, right = (Release.of(value) if isinstance(value, str) else value for value in (left, right))
        if sign not in ("==", "!="):
            for value in (left, right):
                if not is_number(value) and not isinstance(value, Release) and value is not UNDECIDED:
                    raise UndefinedError("condition_false", f"{described(value)} is not a number")
        if left is UNDECIDED or right is UNDECIDED:
            return None
        if isinstance(left, sympy.Expr) or isinstance(right, sympy.Expr):
            return self._compare_sizes(sign, left, right)
        return bool(_PYTHON[sign](left, right))

    def _compare_sizes(self, sign: str, left: Any, right: Any) -> bool | None:
        if isinstance(left, float) or isinstance(right, float):
            return None
        if not all(isinstance(value, int | sympy.Expr) for value in (left, right)):
            return sign == "!="  # a number and something that is none
        return self.lookup.facts.symbols.compare(sign, *(int(value) if isinstance(value, bool) else value for value in (left, right)))

    def _question(self, atom: Condition) -> bool | None:
        match atom:
            case Question("contiguous", of):
                return self._contiguous(of)
            case Question("none", of):
                return self.lookup.reference(of) is None
            case Question("requires_grad", of):
                return self.lookup.tensor(of).requires_grad
            case Literal() | Reference() | TargetFact():
                value = self.lookup.term(atom)
                if value is UNDECIDED:
                    return None
                if isinstance(value, bool):
                    return value
                raise UndefinedError("condition_false", f"{atom} is {described(value)}, neither True nor False")
        raise TypeError(f"{atom!r} is no condition")

    def _contiguous(self, of: Reference) -> bool | None:
        """As torch defines it: strides of dimensions of size 1 do not count, and a tensor without elements is contiguous."""
        rank = len(self.lookup.tensor(of).shape)
        sizes = [self.lookup.measure(Measure("dim", of, index)) for index in range(rank)]
        strides = [self.lookup.measure(Measure("stride", of, index)) for index in range(rank)]
        if UNDECIDED in (*sizes, *strides):
            return None
        expected: Any = 1
        dense: list[bool | None] = []
        for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
            dense.append(_three(any, [self._compare_values("==", size, 1), self._compare_values("==", stride, expected)]))
            expected = expected * size
        return _three(any, [_three(all, dense), self._compare_values("==", expected, 0)])


def _codes(term: Term) -> list[str]:
    found = []
    for leaf in leaves(term):
        if isinstance(leaf, Measure):
            found.append(MEASURES[leaf.word].code)
        elif isinstance(leaf, TargetFact):
            found.append(TARGET_FACTS[leaf.word].code)
    return found


def _three(quantifier: Callable[[Iterable[bool]], bool], answers: list[bool | None]) -> bool | None:
    """`all` or `any` of answers of which some are not known."""
    pessimistic, optimistic = quantifier(a is True for a in answers), quantifier(a is not False for a in answers)
    return pessimistic if pessimistic == optimistic else None


def _all(verdicts: list[Verdict]) -> Verdict:
    if False in verdicts:
        return False
    left = [verdict for verdict in verdicts if verdict is not True]
    return True if not left else left[0] if len(left) == 1 else And(tuple(left))  # type: ignore[arg-type]


def _any(verdicts: list[Verdict]) -> Verdict:
    if True in verdicts:
        return True
    left = [verdict for verdict in verdicts if verdict is not False]
    return False if not left else left[0] if len(left) == 1 else Or(tuple(left))  # type: ignore[arg-type]
