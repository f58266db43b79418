"""What makes a kernel right that by itself is not quite what the layer is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeGuard

from .output_order import Order


@dataclass(frozen=True, slots=True)
class Repairs:
    """The repairs of one kernel for one form of call: what a trial, a rehearsal or a probe has found out, up to the report.

    Args:
        copied_inputs: Positions of the inputs that the kernel overwrites, ascending: it gets copies of them.
        reordered_outputs: For each output whose strides are not the layer's, its position and the order of the layer's dimensions: it is
            copied into that order.
        recompute: Why the gradient is the layer's, recomputed in the backward, as a phrase; None where it is the kernel's own.
    """

    copied_inputs: tuple[int, ...] = ()
    reordered_outputs: tuple[tuple[int, Order], ...] = ()
    recompute: str | None = None

    def __or__(self, other: Repairs) -> Repairs:
        """Both repairs. Where both know the order of an output, or a reason to recompute, that of the first counts."""
        orders = {**dict(other.reordered_outputs), **dict(self.reordered_outputs)}
        copied = tuple(sorted({*self.copied_inputs, *other.copied_inputs}))
        return Repairs(copied, tuple(sorted(orders.items())), self.recompute or other.recompute)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(found: Any) -> Repairs:
        """Return what `as_dict` gave.

        Raises:
            ValueError: If it is something else.
        """
        copied, orders, recompute = (found.get(name) if isinstance(found, Mapping) else None for name in Repairs.__dataclass_fields__)
        if not _are_positions(copied) or not isinstance(orders, list | tuple) or not (recompute is None or isinstance(recompute, str)):
            raise ValueError("repairs are the inputs that are copied, the outputs that are reordered, and why the gradient is recomputed")
        pairs = [tuple(pair) if isinstance(pair, list | tuple) and len(pair) == 2 else (None, None) for pair in orders]
        if not all(type(position) is int and _are_positions(order) for position, order in pairs):
            raise ValueError("an output that is reordered is given as its position and the order of its dimensions")
        return Repairs(tuple(copied), tuple([(position, tuple(order)) for position, order in pairs]), recompute)


def _are_positions(found: Any) -> TypeGuard[list[int] | tuple[int, ...]]:
    return isinstance(found, list | tuple) and all(type(position) is int for position in found)
