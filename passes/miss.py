"""A miss: the value that a failing gate returns instead of False."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CODES: tuple[str, ...] = (
    "forward_overridden",
    "excluded",
    "condition_false",
    "not_captured",
    "graph_break",
    "covered",
    "mutation",
    "random",
    "escape",
    "state",
    "opaque_argument",
    "no_mapping",
    "no_device",
    "capability",
    "no_mode",
    "untrusted",
    "no_variant",
    "offline",
    "digest",
    "load_error",
    "signature",
    "own_state",
    "missing_attribute",
    "no_backward",
    "not_compilable",
    "dtype",
    "rank",
    "layout",
    "shape",
    "dynamic_shape",
    "tensor_subclass",
    "output_metadata",
    "conflict",
    "numerics",
    "gradient",
    "mutates_input",
    "crash",
    "timeout",
    "unprobed",
    "not_profitable",
)
"""Every reason for which a call can keep its original layer. Public and append-only: reports and CI checks store them."""


@dataclass(frozen=True, slots=True)
class Miss:
    """Why one gate turned a candidate or a call away.

    Args:
        code: One of `CODES`.
        template: A sentence with ``{name}`` fields. It is formatted when somebody reads `message`, not before: most misses are never read.
        data: The values of the fields.

    Raises:
        ValueError: If the code is not one of `CODES`.
    """

    code: str
    template: str
    data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"unknown miss code {self.code!r}; the codes are listed in passes/miss.py")

    @property
    def message(self) -> str:
        """The formatted sentence."""
        return self.template.format(**self.data)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
