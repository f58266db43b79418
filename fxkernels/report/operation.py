"""Operations: the lines of a layer call's region, and of the kernel call that takes its place, in a form that identical calls share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a layer call.

    Names are local to the call: its inputs are called what the layer calls them (``hidden_states``, ``self.weight``), and its values are
    numbered from the beginning of the region. So the operations of two identical calls are equal.

    Args:
        name: Name of the value that it computes; empty where it computes none.
        code: The operation as it would be written in Python, e.g. ``hidden_states.pow(2)``.
        value: Dtype, shape and, where it is not contiguous, strides of what it computes, e.g. ``f32[2, 8, 64]``; several joined by ", ".
        location: ``file:line`` of the user's source, if known.
    """

    name: str
    code: str
    value: str
    location: str | None = None

    def __str__(self) -> str:
        line = f"{self.name} = {self.code}" if self.name else self.code
        return f"{line}  # {self.value}" if self.value else line
