"""What an answer depends on where sizes are dynamic, and how it becomes a guard of the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..capture import _torch
from ..passes.constraints import Condition, Depends, check
from ..passes.constraints.evaluate import Judge
from ..passes.constraints.expression import Not
from ..passes.constraints.lookup import Lookup
from .called import Called
from .nearby import nearby


@dataclass(frozen=True, eq=False)
class Guard:
    """Conditions on dynamic sizes, all of which hold for the sizes that a graph is captured with.

    It holds on to the capture: it is put in force or dropped before the graph is handed on.

    Args:
        parts: The conditions.
        called: The call whose sizes they speak of.
    """

    parts: tuple[Depends, ...]
    called: Called

    @staticmethod
    def of(condition: Condition, called: Called) -> Guard:
        """Return what makes a condition hold for the call's present sizes, as little as suffices.

        Args:
            condition: A condition that holds by `called.example`.
            called: The call.
        """
        atoms = Judge(Lookup(called.example)).support(condition)
        answers = [check([atom], called.facts) for atom in atoms]
        return Guard(tuple([answer for answer in answers if isinstance(answer, Depends)]), called)

    def enforce(self) -> None:
        """Make it a guard of the graph that is being captured: called with other sizes, the graph is captured and decided anew."""
        for part in self.parts:
            # Not by the inputs that the compiler hands over: comparing those makes no guard.
            if not part.holds([self.called.now(read) for read in part.reads]):
                raise AssertionError(f"{part.residual} holds for the sizes of the capture, and then it does not")

    @property
    def fixes(self) -> str | None:
        """A size that the user has marked as dynamic and that this would fix or restrict more than was promised; None if there is none."""
        environment = self.called.environment
        symbols = {symbol for part in self.parts for read in part.reads for symbol in part.expression(read).free_symbols}
        promised = _torch.sizes_marked_dynamic(environment) if environment is not None and symbols else {}
        for symbol, is_strict in promised.items():
            if symbol in symbols and (is_strict or not self._leaves_a_choice(symbol, symbols)):
                return next(str(read) for part in self.parts for read in part.reads if symbol in part.expression(read).free_symbols)
        return None

    def _leaves_a_choice(self, symbol: Any, symbols: set[Any]) -> bool:
        """Whether it holds for a second value of the symbol, the others staying as they are or going along with it."""
        sizes = {each: int(self.called.sizes[each]) for each in symbols}
        others = (other for other in nearby(sizes) if other[symbol] != sizes[symbol])
        return any(all(part.holds_at(other) for part in self.parts) for other in others)

    def __str__(self) -> str:
        return " and ".join(str(part.residual) for part in self.parts)


def opposite(clause: Condition) -> Condition:
    """Return the condition that a clause does not hold."""
    return clause.part if isinstance(clause, Not) else Not(clause)
