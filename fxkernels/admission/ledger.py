"""Tensors that a caller may still hold, so that a later call of the kernel must not change them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .running import changed_positions, copies, refused


class Ledger:
    """What calls at one choice of sizes were given and have returned, each with a copy of its values.

    Args:
        keeps: Whether anything is kept. For a single run there is no later call.
    """

    def __init__(self, *, keeps: bool = True) -> None:
        self._keeps = keeps
        self._kept: list[tuple[Sequence[Any], list[Any], str, Sequence[Any]]] = []

    def keep(self, tensors: Sequence[Any], what: str, names: Sequence[Any]) -> None:
        """Keep tensors that must not change from now on.

        Args:
            tensors: The tensors.
            what: A phrase for them, with a field for the name.
            names: What they are called.
        """
        if self._keeps:
            self._kept.append((tensors, copies(tensors), what, names))

    def forget(self) -> None:
        """Drop all tensors that were kept: the checks themselves are going to write to them."""
        self._kept.clear()

    def check(self) -> None:
        """Refuse a kernel that has changed what it returned before, or was given.

        Raises:
            Refused: If it has.
        """
        for tensors, before, what, names in self._kept:
            for number in changed_positions(before, tensors):
                raise refused("numerics", "a later call changes {what}", what=what.format(name=names[number]))
