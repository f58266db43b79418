"""Which sizes the user has marked as dynamic. Seen on torch 2.11, 2.13 and 2.14."""

from __future__ import annotations

from typing import Any

from torch.fx.experimental.symbolic_shapes import StrictMinMaxConstraint


def sizes_marked_dynamic(environment: Any) -> dict[Any, bool]:
    """Return the symbols of sizes that `mark_dynamic` promises to be dynamic; whether no guard but the promised range is allowed at all.

    A guard that fixes such a size is an error of the compilation (a constraint violation). If torch keeps no list of its inputs any more,
    nothing is found, and that error is what the user sees.

    Args:
        environment: The shape environment of a capture.
    """
    promised: dict[Any, bool] = {}
    for tracked in getattr(environment, "tracked_fakes", None) or ():
        constraints = getattr(tracked.symbolic_context, "constraint_sizes", None)
        for size, constraint in zip(getattr(tracked.fake, "shape", ()), constraints or (), strict=False):
            if constraint is None or constraint.warn_only or not hasattr(size, "node"):
                continue
            for symbol in size.node.expr.free_symbols:
                promised[symbol] = promised.get(symbol, False) or isinstance(constraint, StrictMinMaxConstraint)
    return promised
