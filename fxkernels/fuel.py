"""Fuel: how many calls of a model may run kernels. Counting it up finds the call whose kernel makes a model wrong."""

from __future__ import annotations

import os
import threading

from .passes.miss import Miss

VARIABLE = "FXKERNELS_FUEL"
"""The environment variable that says how many calls of each model may be rewritten."""


def fuel_in_environment() -> int | None:
    """Return how many calls ``FXKERNELS_FUEL`` permits; None if it says nothing.

    Raises:
        ValueError: If it is no whole number, or a negative one.
    """
    said = os.environ.get(VARIABLE, "").strip()
    if not said:
        return None
    if not (said.isascii() and said.isdecimal()):
        raise ValueError(f"the environment variable {VARIABLE}={said!r} is not a number of calls such as 0 or 12; unset it to rewrite all")
    return int(said)


class Fuel:
    """Permits the first calls that ask to run a kernel, and no others.

    Calls are told apart by their keys, in the order in which they first ask. A call of a graph that is captured again asks under its old
    key and so uses no new fuel; and since capture goes through a model in the same order everywhere, every process permits the same calls.

    Args:
        limit: How many calls are permitted; None for all.

    Example:
        >>> fuel = Fuel(1)
        >>> fuel.allows("layers.0.norm#0"), str(fuel.allows("layers.1.norm#0"))
        (None, 'excluded: FXKERNELS_FUEL=1 is used up, layers.0.norm#0 was the last call to get a kernel')
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._permitted: dict[str, None] = {}
        self._lock = threading.Lock()

    def allows(self, key: str) -> Miss | None:
        """Return None if a call may run its kernel, else why it may not. To be asked only where nothing else is against it.

        Args:
            key: The call, e.g. ``model.layers.3.norm#0``.
        """
        if self._limit is None:
            return None
        with self._lock:
            if key in self._permitted:
                return None
            if len(self._permitted) < self._limit:
                self._permitted[key] = None
                return None
            last = next(reversed(self._permitted), None)
        if last is None:
            return Miss("excluded", f"{VARIABLE}=0 permits no kernel")
        data = {"limit": self._limit, "last": last}
        return Miss("excluded", f"{VARIABLE}={{limit}} is used up, {{last}} was the last call to get a kernel", data)
