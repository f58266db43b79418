"""Decide for every layer call what happens to it, before anything is edited."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import fx

from .gate import Candidate, Gate
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
        kernel: Who replaces the call; for the passes an opaque value.
        replacement: Present exactly if the status is ``rewritten``.
        lowering: How the kernel enters the graph; for the passes an opaque value.
        gates: What the call itself was asked.
        candidates: The repositories that were asked for a kernel, in order; the last one is the one that is taken, if any is.
        evidence: Why the kernel is trusted; for the passes an opaque value.
        described: The call before and after in words; for the passes an opaque value.
    """

    status: Status
    misses: tuple[Miss, ...] = ()
    kernel: Any = None
    replacement: Replacement | None = None
    lowering: Any = None
    gates: tuple[Gate, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    evidence: Any = None
    described: Any = None

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


def plan_rewrites(calls: Iterable[LayerCall], decide: Callable[[LayerCall], Decision]) -> Plan:
    """Return a plan in which the outermost call that `decide` rewrites covers the calls inside it.

    Args:
        calls: All layer calls of one graph, in any order.
        decide: Decides one call by itself; asked only for calls that are not covered, an outer call before the calls inside it.
    """
    calls = tuple(calls)
    decisions: dict[LayerCall, Decision] = {}

    def decided(call: LayerCall) -> Decision:
        if call in decisions:
            return decisions[call]
        around = decided(call.parent) if call.parent is not None else None
        if around is not None and around.status in ("rewritten", "covered"):
            decision = _covered_by(next(c for c in call.ancestors() if decisions[c].status == "rewritten"))
        else:
            decision = decide(call)
        decisions[call] = decision
        return decision

    return Plan(tuple((call, decided(call)) for call in calls))


def _covered_by(call: LayerCall) -> Decision:
    return Decision("covered", (Miss("covered", "it happens inside {key}, which a kernel replaces", {"key": call.key}),))
