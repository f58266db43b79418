"""What came of asking whether a call meets constraints."""

from __future__ import annotations

from dataclasses import dataclass

from ..passes.miss import Miss
from .guard import Guard


@dataclass(frozen=True, slots=True)
class Judged:
    """The answer for one kernel and one call.

    Args:
        miss: Why the kernel is not for this call; None if it is.
        guard: What the answer, also a miss, depends on where sizes are dynamic. Once in force, other sizes are decided anew.
        note: What was found, for the report; empty if nothing was demanded.
    """

    miss: Miss | None = None
    guard: Guard | None = None
    note: str = ""
