"""The tree of modules that the folds of a report stand in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..passes.plan import Status
from .fold import Fold
from .model import CallReport

# One name of a label with the numbers behind it, which belong to a list of that name: `layers.{0..3}`, `layers.3`, `norm#0`.
_NAME = re.compile(r"(?:\{[0-9.,]+\}|[^.])+(?:\.(?:\{[0-9.,]+\}|[0-9]+)(?=[.#]|$))*")


@dataclass(frozen=True, slots=True)
class Branch:
    """A module with more than one fold in it.

    Args:
        label: Its path below the branch around it, e.g. ``layers.{0..31}``.
        parts: What is in it.
    """

    label: str
    parts: tuple[Branch | Leaf, ...]

    def calls(self) -> Iterator[CallReport]:
        """All calls in it, those inside rewritten ones too."""
        for part in self.parts:
            yield from part.calls()

    @property
    def counts(self) -> Counter[Status]:
        """How many calls have each status."""
        return Counter(call.status for call in self.calls())


@dataclass(frozen=True, slots=True)
class Leaf:
    """A fold, under the name that it has below its branch; ``(the model)`` for calls of the model itself."""

    label: str
    fold: Fold

    def calls(self) -> Iterator[CallReport]:
        """Its calls, and those inside them."""
        yield from _calls(self.fold)


def module_tree(folds: Iterable[Fold]) -> tuple[Branch | Leaf, ...]:
    """Return the folds as a tree. A module becomes a branch where several folds share its path, all numbers included.

    Args:
        folds: As `fold_calls` returns them.
    """
    return _parts([(_names(fold.label), fold) for fold in folds], 0)


def _parts(named: Sequence[tuple[list[str], Fold]], depth: int) -> tuple[Branch | Leaf, ...]:
    """What is in a module whose label has `depth` names. A fold's last name is its own, never a branch."""
    groups: dict[tuple[str, bool], list[tuple[list[str], Fold]]] = {}
    for names, fold in named:
        inside = len(names) - 1 > depth
        groups.setdefault((names[depth] if inside else fold.label, inside), []).append((names, fold))
    parts: list[Branch | Leaf] = []
    for group in groups.values():
        if len(group) == 1:
            parts.append(Leaf(_below(group[0][1].label, depth), group[0][1]))
            continue
        shared = _shared([names[:-1] for names, _ in group])
        parts.append(Branch(".".join(group[0][0][depth:shared]), _parts(group, shared)))
    return tuple(parts)


def _below(label: str, depth: int) -> str:
    rest = ".".join(_names(label)[depth:])
    return f"(the model){rest}" if not rest or rest.startswith("#") else rest


def _names(label: str) -> list[str]:
    return _NAME.findall(label)


def _shared(ways: Sequence[Sequence[str]]) -> int:
    """How many names all of them begin with."""
    return next((n for n, names in enumerate(zip(*ways, strict=False)) if len(set(names)) > 1), min(map(len, ways)))


def _calls(fold: Fold) -> Iterator[CallReport]:
    yield from fold.calls
    for covered in fold.covered:
        yield from _calls(covered)
