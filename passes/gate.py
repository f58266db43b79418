"""Gates: the questions that a call, and then each candidate for it, is asked in a fixed order, and what came of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .miss import Miss

Outcome = Literal["passed", "failed", "unknown"]
"""Of a gate. It is unknown where only running something would tell, and nothing was to be run."""

CALL_GATES: tuple[str, ...] = ("filter", "annotation", "region", "device", "mapping")
"""What a call is asked before there is a candidate: is it wanted, is the forward the annotated one, may the region be replaced, where does
it run, and what does the mapping have for it."""

CANDIDATE_GATES: tuple[str, ...] = ("repository", "contract", "inputs", "mode", "constraints", "admission", "lowering", "profit")
"""What each candidate is asked: can it be loaded, does it have the layer's signature, can it take the inputs, may it run in this mode, does
the call meet what it demands, has it shown that it computes the same, can it enter the graph, and is it faster."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate that was asked. Those after a failed one were not, and do not appear.

    Args:
        name: One of `CALL_GATES` or `CANDIDATE_GATES`.
        outcome: What came of it.
        miss: Why it failed; present exactly if it did.
        note: The evidence of a pass, or why the outcome is unknown; may be empty for a pass.

    Raises:
        ValueError: If name, outcome and miss do not fit each other.
    """

    name: str
    outcome: Outcome = "passed"
    miss: Miss | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.name not in CALL_GATES and self.name not in CANDIDATE_GATES:
            raise ValueError(f"unknown gate {self.name!r}; the gates are listed in passes/gate.py")
        if (self.outcome == "failed") is not (self.miss is not None):
            raise ValueError(f"gate {self.name} has outcome {self.outcome} and miss={self.miss!r}, which contradict each other")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One repository that the mapping offers for a call, and the gates that it was asked.

    Args:
        name: The repository and layer, as far as the mapping tells them.
        gates: The gates that were asked, in order; the last one may have failed, and any may be unknown.
        kernel: The identity of the kernel layer, once it is loaded; for the passes an opaque value.
    """

    name: str
    gates: tuple[Gate, ...]
    kernel: Any = None

    @property
    def outcome(self) -> Outcome:
        """Failed if a gate failed, else unknown if one is unknown, else passed."""
        outcomes = {gate.outcome for gate in self.gates}
        return "failed" if "failed" in outcomes else "unknown" if "unknown" in outcomes else "passed"

    @property
    def miss(self) -> Miss | None:
        """Why it was turned away; None if it was not."""
        return self.gates[-1].miss if self.gates else None
