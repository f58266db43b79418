"""What an answer depends on where sizes are dynamic, and how it becomes a guard of the graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..capture import _torch
from .call_facts import CallFacts
from .evaluate import Evaluation
from .expression import Condition
from .sizes import dynamic_reads, nearby, symbols_of


@dataclass(frozen=True, eq=False)
class Guard:
    """Conditions on dynamic sizes, all of which hold for the sizes that a graph is captured with.

    It holds on to the capture: it is put in force or dropped before the graph is handed on.

    Args:
        parts: The conditions.
        call: The call whose sizes they speak of.
    """

    parts: tuple[Condition, ...]
    call: CallFacts

    @staticmethod
    def of(conditions: Iterable[Condition], call: CallFacts) -> Guard:
        """Return what makes conditions hold for the call's present sizes, as little as suffices.

        Args:
            conditions: Conditions that hold by `call.present`.
            call: The call.
        """
        present, always = Evaluation(call.present), Evaluation(call)
        atoms = dict.fromkeys(atom for condition in conditions for atom in present.support(condition))
        return Guard(tuple([atom for atom in atoms if always.holds(atom) is not True]), call)

    def enforce(self) -> None:
        """Make it a guard of the graph that is being captured: called with other sizes, the graph is captured and decided anew."""
        for part in self.parts:
            if Evaluation(self.call, guarding=True).holds(part) is not True:
                raise AssertionError(f"{part} holds for the sizes of the capture, and then it does not")

    @property
    def fixes(self) -> str | None:
        """A size that the user has marked as dynamic and that this would fix or restrict more than was promised; None if there is none."""
        reads = {read: symbols_of(size) for part in self.parts for read, size in dynamic_reads(part, self.call).items()}
        symbols = set().union(*reads.values())
        promised = _torch.sizes_marked_dynamic(self.call.environment) if symbols else {}
        for symbol, is_strict in promised.items():
            if symbol in symbols and (is_strict or not self._leaves_a_choice(symbol, symbols)):
                return next(str(read) for read, own in reads.items() if symbol in own)
        return None

    def _leaves_a_choice(self, symbol: Any, symbols: set[Any]) -> bool:
        """Whether it holds for a second value of the symbol, the others staying as they are or going along with it."""
        sizes = {each: int(self.call.hints[each]) for each in symbols}
        others = (Evaluation(self.call.at(other)) for other in nearby(sizes) if other[symbol] != sizes[symbol])
        return any(all(other.holds(part) for part in self.parts) for other in others)

    def __str__(self) -> str:
        return " and ".join(map(str, self.parts))
