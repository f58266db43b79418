"""Gates: the questions that a layer call, and then each candidate for it, is asked; and the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .miss import Miss

Outcome = Literal["passed", "failed", "unknown"]
"""Of a gate. It is unknown where only running something would tell, and nothing was to be run."""

Stage = Literal["call", "form", "candidate", "selection"]
"""When a gate is asked: of each call, once for all calls of one form, of each candidate for these, or once of the candidates that have
passed all others."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """The answer of one gate. Gates behind one that failed are not asked, and have none.

    Args:
        name: The gate's name.
        outcome: Whether the call or candidate passed.
        miss: Why it failed; present exactly if it did.
        note: The evidence of a pass, or why the outcome is unknown; may be empty for a pass.

    Raises:
        ValueError: If outcome and miss contradict each other.
    """

    name: str
    outcome: Outcome = "passed"
    miss: Miss | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if (self.outcome == "failed") is not (self.miss is not None):
            raise ValueError(f"gate {self.name} has outcome {self.outcome} and miss={self.miss!r}, which contradict each other")


@dataclass(frozen=True, slots=True)
class Gate:
    """A question. The room that knows the answer declares it.

    Args:
        name: What reports call it.
        stage: When it is asked.
        codes: The codes of the misses with which it fails.
    """

    name: str
    stage: Stage
    codes: tuple[str, ...]

    def passed(self, note: str = "") -> GateResult:
        """Return the answer that nothing speaks against, with the evidence."""
        return GateResult(self.name, note=note)

    def failed(self, miss: Miss) -> GateResult:
        """Return the answer of a call or candidate that is turned away.

        Raises:
            ValueError: If the gate does not declare the miss's code.
        """
        if miss.code not in self.codes:
            raise ValueError(f"gate {self.name} fails with {miss.code!r}, and declares only {', '.join(self.codes)}")
        return GateResult(self.name, "failed", miss)

    def unknown(self, why: str) -> GateResult:
        """Return the answer that only running something would give."""
        return GateResult(self.name, "unknown", note=why)

    def of(self, miss: Miss | None) -> GateResult:
        """Return the answer of a question that has nothing to say of a pass."""
        return self.passed() if miss is None else self.failed(miss)


@dataclass(frozen=True, slots=True)
class CandidateResult:
    """One kernel that may replace a call, and what its gates have answered.

    Args:
        name: What it is called before it is loaded.
        gates: The answers, in order; the last one may have failed, and any may be unknown.
        kernel: The identity of the kernel layer, once it is loaded; for the passes an opaque value.
    """

    name: str
    gates: tuple[GateResult, ...]
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
