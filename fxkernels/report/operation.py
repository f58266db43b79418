"""Operations: the lines of a layer call's region, and of the kernel call that takes its place, in a form that identical calls share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a layer call.

    Names are local to the call: its inputs are called what the layer calls them (``hidden_states``, ``self.weight``), its values what the
    layer's code calls them (``variance``), or else the operation (``rsqrt``), and what comes out ``output``. So the operations of two
    identical calls are equal.

    Args:
        name: Name of the value that it computes, of several joined by ", "; empty where it computes none, as an assignment (``x += y``).
        code: The operation as it would be written in Python, e.g. ``hidden_states.pow(2)``.
        value: Dtype, shape and, where it is not contiguous, strides of what it computes, e.g. ``f32[2, 8, 64] strides [1024, 128, 2]``;
            several joined by ", ". Dynamic sizes are ``s0``, ``s1`` in the order of the inputs.
        location: ``file:line`` of the user's source, if known.
    """

    name: str
    code: str
    value: str
    location: str | None = None

    def __str__(self) -> str:
        line = f"{self.name} = {self.code}" if self.name else self.code
        return f"{line}  # {self.value}" if self.value else line


@dataclass(frozen=True, slots=True)
class Described:
    """One form of call in words, shared by all calls of that form.

    Args:
        inputs: The graph values that go in, e.g. ``hidden_states: bf16[2, 8, 64]``.
        before: The operations of the region.
        after: The operations that take their place; empty if none do.
    """

    inputs: tuple[str, ...] = ()
    before: tuple[Operation, ...] = ()
    after: tuple[Operation, ...] = ()
