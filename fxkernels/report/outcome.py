"""What became of calls that were decided alike, in a few words: ``missed (dtype: x is f32; acme/norms takes bf16)``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..passes.miss import Miss
from .fold import NAMES
from .model import GraphDecision

Message = Callable[[Sequence[Miss]], str]
"""Returns the one message of misses that differ in the names of nodes and calls only."""


def first_message(misses: Sequence[Miss]) -> str:
    """Return the message of the first miss."""
    return misses[0].message


def nameless(misses: Sequence[Miss]) -> str:
    """Return the first miss's message without names of nodes and calls, which are others in each capture."""
    return misses[0].template.format(**misses[0].data | dict.fromkeys(NAMES & misses[0].data.keys(), "..."))


def outcome_of(decisions: Sequence[GraphDecision], message: Message = first_message) -> str:
    """Return status and kernel, or status and reason.

    Args:
        decisions: Decisions that differ in the names of nodes and calls only.
        message: Makes one message of their misses.
    """
    decision = decisions[0]
    if decision.status == "unknown" and decision.candidates:
        candidate = decision.candidates[-1]
        gates = ", ".join(gate.name for gate in candidate.gates if gate.outcome == "unknown")
        return f"unknown ({candidate.kernel or candidate.name}; not asked: {gates})"
    if decision.kernel is not None:
        variant = f" ({decision.kernel.variant})" if decision.kernel.variant else ""
        return f"{decision.status} by {decision.kernel}{variant}"
    if not decision.misses or decision.status == "covered":
        return decision.status
    reason = reason_of([d.misses[0] for d in decisions], message)
    return f"{decision.status} ({reason.removeprefix(f'{decision.status}: ')})"


def reason_of(misses: Sequence[Miss], message: Message = first_message) -> str:
    """Return code and message of misses that differ in the names of nodes and calls only, in one line."""
    return f"{misses[0].code}: {' '.join(message(misses).split())}"
