"""Constraints as values: frozen, hashable, and printed as the text that parses to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

# --- terms -------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Literal:
    """A number, string, dtype, True, False or None."""

    value: int | float | str | bool | torch.dtype | None

    def __str__(self) -> str:
        return str(self.value).removeprefix("torch.") if isinstance(self.value, torch.dtype) else repr(self.value)


@dataclass(frozen=True, slots=True)
class Reference:
    """An argument, an attribute of the layer, or an element of one: ``x``, ``self.eps``, ``position_embeddings[0]``.

    Args:
        path: Names and indices. The first is ``"self"`` for an attribute; a bare name is an argument, or else an attribute.
    """

    path: tuple[str | int, ...]

    def __str__(self) -> str:
        first, *rest = self.path
        return str(first) + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in rest)


@dataclass(frozen=True, slots=True)
class Measure:
    """What is read off a tensor: ``dim(x, -1)``, ``dtype(x)``."""

    word: str
    of: Reference
    index: int | None = None

    def __str__(self) -> str:
        return f"{self.word}({self.of})" if self.index is None else f"{self.word}({self.of}, {self.index})"


@dataclass(frozen=True, slots=True)
class TargetFact:
    """What holds for the whole call: ``capability``, ``torch``, ``triton``, ``training``."""

    word: str

    def __str__(self) -> str:
        return self.word


@dataclass(frozen=True, slots=True)
class Function:
    """From numbers to a number: ``next_pow2(n)``, ``min(m, n)``."""

    word: str
    arguments: tuple[Term, ...]

    def __str__(self) -> str:
        return f"{self.word}({', '.join(map(str, self.arguments))})"


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """One of ``+ - * // %`` between two numbers, with Python's meaning."""

    operator: str
    left: Term
    right: Term

    def __str__(self) -> str:
        left = f"({self.left})" if _rank(self.left) < _rank(self) else str(self.left)
        right = f"({self.right})" if _rank(self.right) <= _rank(self) else str(self.right)
        return f"{left} {self.operator} {right}"


Term = Literal | Reference | Measure | TargetFact | Function | Arithmetic

# --- conditions --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Compare:
    """A chain of comparisons: ``2 <= dim(w, 0) <= 4``."""

    first: Term
    rest: tuple[tuple[str, Term], ...]

    def __str__(self) -> str:
        return " ".join([str(self.first), *(f"{operator} {term}" for operator, term in self.rest)])


@dataclass(frozen=True, slots=True)
class Member:
    """``dtype(x) in {float16, bfloat16}``."""

    term: Term
    options: tuple[Term, ...]

    def __str__(self) -> str:
        return f"{self.term} in {{{', '.join(map(str, self.options))}}}"


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one argument or attribute: ``contiguous(x)``, ``none(a)``."""

    word: str
    of: Reference

    def __str__(self) -> str:
        return f"{self.word}({self.of})"


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of a condition."""

    part: Condition

    def __str__(self) -> str:
        return f"not {_operand(self.part)}"


@dataclass(frozen=True, slots=True)
class And:
    """Two or more conditions, all of which must hold."""

    parts: tuple[Condition, ...]

    def __str__(self) -> str:
        return " and ".join(map(_operand, self.parts))


@dataclass(frozen=True, slots=True)
class Or:
    """Two or more conditions, one of which must hold."""

    parts: tuple[Condition, ...]

    def __str__(self) -> str:
        return " or ".join(map(_operand, self.parts))


@dataclass(frozen=True, slots=True)
class Implies:
    """If the premise holds, so must the conclusion."""

    premise: Condition
    conclusion: Condition

    def __str__(self) -> str:
        return f"implies({self.premise}, {self.conclusion})"


Condition = Compare | Member | Question | Not | And | Or | Implies | Literal | Reference | TargetFact
"""A literal, a reference or a target fact is one by itself if its value is True or False."""


def clauses(condition: Condition) -> tuple[Condition, ...]:
    """Return the conditions that must all hold: the parts of a conjunction, and of those inside it."""
    if not isinstance(condition, And):
        return (condition,)
    return tuple(clause for part in condition.parts for clause in clauses(part))


def parts_of(condition: Condition, wanted: bool = True) -> tuple[bool, list[tuple[Condition, bool]]] | None:
    """Return the parts of a condition: whether all are needed, and each part with whether it or its opposite is wanted.

    Args:
        condition: The condition.
        wanted: False for the opposite of the condition.

    Returns:
        None for a comparison, a question or a constant, which have no parts. Of an implication the conclusion comes first.
    """
    match condition:
        case And(parts) | Or(parts):
            return isinstance(condition, And) is wanted, [(part, wanted) for part in parts]
        case Not(part):
            return True, [(part, not wanted)]
        case Implies(premise, conclusion):
            return not wanted, [(conclusion, wanted), (premise, not wanted)]
    return None


def leaves(part: Condition | Term) -> Iterator[Literal | Reference | Measure | TargetFact | Question]:
    """Yield what an expression reads, from left to right; a term that occurs twice is yielded twice."""
    match part:
        case Literal() | Reference() | Measure() | TargetFact() | Question():
            yield part
            return
        case Function(_, arguments):
            inner: tuple[Condition | Term, ...] = arguments
        case Arithmetic(_, left, right):
            inner = (left, right)
        case Compare(first, rest):
            inner = (first, *(term for _, term in rest))
        case Member(term, options):
            inner = (term, *options)
        case Not(operand):
            inner = (operand,)
        case And(parts) | Or(parts):
            inner = parts
        case Implies(premise, conclusion):
            inner = (premise, conclusion)
    for item in inner:
        yield from leaves(item)


def references(condition: Condition) -> frozenset[Reference]:
    """Return the arguments and attributes that a constraint speaks of."""
    found: set[Reference] = set()
    for leaf in leaves(condition):
        if isinstance(leaf, Measure | Question):
            found.add(leaf.of)
        elif isinstance(leaf, Reference):
            found.add(leaf)
    return frozenset(found)


def _rank(term: Term) -> int:
    """How strongly a term binds."""
    if not isinstance(term, Arithmetic):
        return 3
    return 1 if term.operator in "+-" else 2


def _operand(condition: Condition) -> str:
    return f"({condition})" if isinstance(condition, And | Or) else str(condition)
