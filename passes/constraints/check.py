"""The check of a call against constraints, and its three answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy

from ..miss import Miss
from .evaluate import Judge
from .expression import And, Condition, Literal, Measure, Reference, TargetFact, clauses, leaves
from .expression import Test as Question
from .facts import Facts
from .grammar import parse
from .lookup import Lookup
from .values import UndefinedError, described

_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Proven:
    """The call meets the constraints, whatever values its dynamic sizes take."""


@dataclass(frozen=True, slots=True)
class Refuted:
    """The call does not meet the constraints, whatever values its dynamic sizes take.

    Args:
        clause: The first clause that fails.
        values: What the clause reads, with its values, in words.
        code: The miss code.
    """

    clause: Condition
    values: str
    code: str

    @property
    def miss(self) -> Miss:
        """The miss of a candidate that is turned away for it."""
        return Miss(self.code, "{clause}: {values}", {"clause": str(self.clause), "values": self.values})

    def __str__(self) -> str:
        return self.miss.message


@dataclass(frozen=True)
class Depends:
    """It depends on sizes that are not known yet.

    Args:
        residual: What has to hold, without the clauses that are proven.
        facts: What was known.
    """

    residual: Condition
    facts: Facts

    @cached_property
    def reads(self) -> tuple[Measure | Reference, ...]:
        """The dynamic sizes, strides and numbers that the residual reads, each once; dimensions are counted from the front."""
        return tuple(dict.fromkeys(_dynamic(self.residual, self.facts)))

    def holds(self, values: Sequence[Any]) -> bool:
        """Return whether the residual holds.

        Args:
            values: The present values of `reads`, in that order: numbers, or `torch.SymInt` while a graph is traced. Then the comparisons
                become guards of that graph, and the result is the one for the sizes that it is traced with.
        """
        key = tuple(values)
        if not all(type(value) is int for value in key):
            return self._judge(key)
        answer = self._answers.get(key)
        if answer is None:
            if len(self._answers) >= _REMEMBERED:
                self._answers.clear()
            answer = self._answers[key] = self._judge(key)
        return answer

    def holds_at(self, symbols: Mapping[sympy.Symbol, int]) -> bool:
        """Return whether the residual holds for values of the symbols, e.g. for the sizes that the graph was captured with."""
        return self.holds([_number(self.expression(read).subs(symbols)) for read in self.reads])

    def expression(self, read: Measure | Reference) -> sympy.Expr:
        """Return what the facts say of one of `reads`."""
        return Lookup(self.facts).raw(read)

    @property
    def miss(self) -> Miss:
        """The miss of a candidate that is turned away rather than guarded."""
        values = ", ".join(f"{read} is {self.expression(read)}" for read in self.reads)
        data = {"residual": str(self.residual), "values": values}
        return Miss("dynamic_shape", "{residual} depends on sizes that change: {values}", data)

    def __str__(self) -> str:
        return self.miss.message

    @cached_property
    def _answers(self) -> dict[tuple[int, ...], bool]:
        """What `holds` has said. Models come back to the same sizes, and this is asked at each call of a kernel."""
        return {}

    def _judge(self, values: tuple[Any, ...]) -> bool:
        verdict = Judge(Lookup(self.facts, dict(zip(self.reads, values, strict=True)))).verdict(self.residual)
        if not isinstance(verdict, bool):
            raise ValueError(f"{verdict} is still not known; values are wanted for {', '.join(map(str, self.reads))}")
        return verdict


Answer = Proven | Refuted | Depends


def check(constraints: Iterable[str | Condition], facts: Facts) -> Answer:
    """Return whether a call meets all constraints.

    Args:
        constraints: Texts, or what `parse` made of them.
        facts: What is known of the call.

    Returns:
        `Refuted` with the first clause that fails, else `Depends` with all that is left to be found out, else `Proven`.

    Raises:
        ConstraintError: If a text is no constraint.

    Example:
        >>> check(["dim(x, -1) % 8 == 0"], Facts({"x": TensorFacts(torch.float32, (4, 100), (100, 1))})).miss.message
        'dim(x, -1) % 8 == 0: dim(x, -1) is 100'
    """
    judge = Judge(Lookup(facts))
    left: list[Condition] = []
    for constraint in constraints:
        for clause in clauses(parse(constraint) if isinstance(constraint, str) else constraint):
            verdict = judge.verdict(clause)
            if verdict is False:
                return Refuted(clause, _values(clause, facts), _code(judge, clause))
            if verdict is not True:
                left.append(verdict)
    if not left:
        return Proven()
    return Depends(left[0] if len(left) == 1 else And(tuple(left)), facts)


def _code(judge: Judge, clause: Condition) -> str:
    return next((judge.code(atom) for atom in judge.failures(clause)), "condition_false")


def _values(clause: Condition, facts: Facts) -> str:
    """What a clause reads and finds, each once: ``dim(x, -1) is 100``."""
    lookup = Lookup(facts)
    found = [_value(leaf, lookup) for leaf in leaves(clause) if not isinstance(leaf, Literal)]
    return ", ".join(dict.fromkeys(found)) or "it never holds"


def _value(leaf: Reference | Measure | TargetFact | Question, lookup: Lookup) -> str:
    try:
        match leaf:
            case Question("contiguous", of):
                tensor = lookup.tensor(of)
                return f"{of} has sizes {list(tensor.shape)} and strides {list(tensor.stride or ())}"
            case Question("requires_grad", of):
                return f"{leaf} is {lookup.tensor(of).requires_grad}"
            case Question(_, of):
                return f"{of} is {described(lookup.reference(of))}"
            case Reference():
                return f"{leaf} is {described(lookup.reference(leaf))}"
            case TargetFact(word):
                return f"{leaf} is {getattr(lookup.facts, word)}" if lookup.target_fact(word) is not None else ""
        return f"{leaf} is {described(lookup.term(leaf))}"
    except UndefinedError as error:
        return error.reason


def _dynamic(condition: Condition, facts: Facts) -> Iterable[Measure | Reference]:
    """The leaves whose values are expressions in the facts. What cannot be read is undefined for good and does not depend on anything."""
    lookup = Lookup(facts)
    for leaf in leaves(condition):
        try:
            match leaf:
                case Measure("dim" | "stride"):
                    places: list[Measure | Reference] = [lookup.resolved(leaf)]
                case Measure("numel", of):
                    places = [Measure("dim", of, index) for index in range(len(lookup.tensor(of).shape))]
                case Question("contiguous", of):
                    places = [Measure(word, of, index) for word in ("dim", "stride") for index in range(len(lookup.tensor(of).shape))]
                case Reference():
                    places = [leaf]
                case _:
                    continue
            yield from [place for place in places if _is_dynamic(lookup.raw(place))]
        except UndefinedError:
            continue


def _is_dynamic(value: Any) -> bool:
    return isinstance(value, sympy.Expr) and not value.is_Integer


def _number(value: Any) -> Any:
    return int(value) if value.is_Integer else float(value)
