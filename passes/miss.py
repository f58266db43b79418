"""A miss: the value that a failing gate returns instead of False."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Miss:
    """Why one gate turned a candidate or a call away.

    Args:
        code: The reason in a word: one of the codes that the gate declares.
        template: A sentence with ``{name}`` fields. It is formatted when `message` is read, not before: most misses are never read.
        data: The values of the fields.
    """

    code: str
    template: str
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """The formatted sentence."""
        return self.template.format(**self.data)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
