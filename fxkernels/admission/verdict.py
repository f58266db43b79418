"""What a probe has found out, as values that can be written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..kernels.lowering.repairs import Repairs
from ..passes.gate import Gate
from ..passes.miss import Miss
from .tolerances import Comparison

ADMISSION = Gate(
    "admission",
    "candidate",
    ("numerics", "gradient", "mutates_input", "output_metadata", "own_state", "crash", "timeout", "unprobed", "dynamic_shape"),
)
"""Has the kernel shown that it computes what the layer computes, for such inputs?"""

Result = Literal["admitted", "refused", "unprobed"]


@dataclass
class Evidence:
    """What was seen while a kernel was probed.

    Args:
        sizes: What the inputs were, one line for each.
        runs: How often the kernel ran.
        errors: For each result the comparison that took up most of its tolerance.
        notes: What a reader has to know besides.
        repairs: With which help the kernel is right.
    """

    sizes: list[str] = field(default_factory=list)
    runs: int = 0
    errors: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)

    def compared(self, what: str, comparison: Comparison, style: str) -> None:
        """Keep a comparison if it is the worst for this result."""
        used = comparison.used
        if what not in self.errors or used > self.errors[what]["used"]:
            numbers = {"error": comparison.error, "tolerance": comparison.tolerance, "used": used}
            self.errors[what] = {key: _short(value) for key, value in numbers.items()} | {"by": comparison.by, "values": style}

    def note(self, sentence: str) -> None:
        """Keep a sentence, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def repair(self, sentence: str) -> None:
        """Keep a sentence about help that the kernel needs, once."""
        if sentence not in self.repairs:
            self.repairs.append(sentence)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"sizes": self.sizes, "runs": self.runs, "errors": self.errors, "notes": self.notes, "repairs": self.repairs}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a probe comes to.

    Args:
        result: ``"admitted"``, ``"refused"`` or ``"unprobed"``.
        code: The miss code, unless the kernel is admitted.
        message: What is wrong with the kernel, or why it could not be probed.
        repairs: What makes the kernel right, if it is admitted.
        evidence: What was seen.
    """

    result: Result
    code: str | None = None
    message: str = ""
    repairs: Repairs = Repairs()
    evidence: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def refused(miss: Miss, evidence: dict[str, Any]) -> Verdict:
        """Return that a kernel has failed a check."""
        return Verdict("refused", miss.code, miss.message, evidence=evidence)

    @staticmethod
    def unprobed(reason: str, evidence: dict[str, Any] | None = None) -> Verdict:
        """Return that a kernel could not be probed."""
        return Verdict("unprobed", "unprobed", reason, evidence=evidence or {})

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "result": self.result,
            "code": self.code,
            "message": self.message,
            "repairs": self.repairs.as_dict(),
            "evidence": self.evidence,
        }

    @staticmethod
    def from_dict(found: Mapping[str, Any]) -> Verdict:
        """Return what `as_dict` gave.

        Raises:
            ValueError: If it is something else.
        """
        result, code, message = found.get("result"), found.get("code"), found.get("message")
        evidence = found.get("evidence")
        if result not in ("admitted", "refused", "unprobed") or not (code is None if result == "admitted" else code in ADMISSION.codes):
            raise ValueError(f"{result!r} with code {code!r} is no verdict")
        if not isinstance(message, str) or not isinstance(evidence, dict):
            raise ValueError("a verdict has a message and its evidence")
        return Verdict(result, code, message, Repairs.from_dict(found.get("repairs")), evidence)


def _short(value: float) -> float | str:
    return float(f"{value:.3g}") if value == value and abs(value) != float("inf") else str(value)
