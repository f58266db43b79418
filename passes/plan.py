"""Decide for every layer call what happens to it, before anything is edited."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import fx

from .conflict import RewrittenCalls
from .gate import CandidateResult, GateResult
from .layer_call import LayerCall
from .miss import Miss

Status = Literal["rewritten", "missed", "excluded", "covered", "not_captured", "unknown"]
"""`unknown`: nothing speaks against a kernel, but a gate that only running it could answer was not asked. Only plans that are not carried
out have it."""


@dataclass(frozen=True, slots=True, eq=False)
class Replacement:
    """What takes the place of a region: one call of `target` on graph values.

    Args:
        target: A callable with ``__name__``, ``__qualname__`` and ``__module__``; it returns one tensor, or a tuple of them where the call
            has several.
        inputs: Its arguments, nodes that precede the region's end.
    """

    target: Callable[..., Any]
    inputs: tuple[fx.Node, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What happens to one layer call, and why.

    Args:
        status: ``rewritten``, ``missed``, ``excluded``, ``covered`` or ``unknown``.
        misses: Every miss on the way, in the order in which candidates were asked; the first one is the reason of a call that missed.
        replacement: Present exactly if the status is ``rewritten``.
        gates: What the gates have answered of the call itself.
        candidates: The kernels that may replace it, in the order in which they were asked; the last one is taken, if any is.
        use: The kernel that is taken, and how it is used; for the passes an opaque value.
        description: The call before and after in words; for the passes an opaque value.
    """

    status: Status
    misses: tuple[Miss, ...] = ()
    replacement: Replacement | None = None
    gates: tuple[GateResult, ...] = ()
    candidates: tuple[CandidateResult, ...] = ()
    use: Any = None
    description: Any = None

    def __post_init__(self) -> None:
        if (self.status == "rewritten") is not (self.replacement is not None):
            raise ValueError(f"a {self.status} call and replacement={self.replacement!r} contradict each other")


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """One decision for each layer call of one graph, complete before the first edit."""

    entries: tuple[tuple[LayerCall, Decision], ...] = field(default=())

    def __iter__(self) -> Iterator[tuple[LayerCall, Decision]]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def rewrites(self) -> tuple[tuple[LayerCall, Decision], ...]:
        """The entries that will be edited."""
        return tuple(entry for entry in self.entries if entry[1].status == "rewritten")


DecideCall = Callable[[LayerCall, Miss | None], Decision]
"""Decides one call by itself. The miss says why its region cannot be replaced beside the calls that are rewritten already, if it cannot."""


def plan_rewrites(calls: Iterable[LayerCall], decide: DecideCall) -> Plan:
    """Return a plan in which the outermost call that `decide` rewrites covers the calls inside it.

    Of calls that cannot both be rewritten the one that begins first is; the other one misses with ``conflict``.

    Args:
        calls: All layer calls of some graphs, in any order.
        decide: Asked only for calls that are not covered, an outer call before the calls inside it, and earlier calls before later ones.
    """
    calls = tuple(calls)
    decisions: dict[LayerCall, Decision] = {}
    rewritten = RewrittenCalls()

    def decided(call: LayerCall) -> Decision:
        if call in decisions:
            return decisions[call]
        around = decided(call.parent) if call.parent is not None else None
        if around is not None and around.status in ("rewritten", "covered"):
            decision = _covered_by(next(c for c in call.ancestors() if decisions[c].status == "rewritten"))
        else:
            decision = decide(call, rewritten.conflict(call))
            if decision.status == "rewritten":
                rewritten.add(call)
        decisions[call] = decision
        return decision

    for call in _earliest_first(calls):
        decided(call)
    return Plan(tuple((call, decisions[call]) for call in calls))


def _earliest_first(calls: tuple[LayerCall, ...]) -> list[LayerCall]:
    """The calls graph by graph, in the order of their first operations; of two with the same one the larger, of equal ones the given."""
    graphs = {graph: number for number, graph in enumerate(dict.fromkeys(call.graph for call in calls))}
    located = [call for call in calls if call.region]
    located.sort(key=lambda call: (graphs[call.graph], call.first, -len(call.region)))
    return [*located, *(call for call in calls if not call.region)]


COVERED = "covered"
"""The code of a call's miss inside a call that is rewritten."""


def _covered_by(call: LayerCall) -> Decision:
    return Decision("covered", (Miss(COVERED, "it happens inside {key}, which a kernel replaces", {"key": call.key}),))
