"""What a side changes for the whole process, in place only while that side runs.

`kernels` gives a decorated function, which is one object for all models, another forward; Liger puts other functions and classes into the
modules of transformers. Both are done once, written down as changes, and undone; a side that is run brings its changes with it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

ABSENT = object()
"""The value of an attribute that is not there."""


@dataclass(frozen=True, slots=True)
class Change:
    """One attribute of an object that everybody in the process sees: what it was, and what a side makes of it."""

    owner: Any
    name: str
    before: Any
    after: Any

    def make(self) -> None:
        """Do it."""
        _put(self.owner, self.name, self.after)

    def undo(self) -> None:
        """Give the attribute back what it was."""
        _put(self.owner, self.name, self.before)


@dataclass(frozen=True, slots=True)
class Shared:
    """The attributes of everything that models of transformers share, at one moment."""

    attributes: tuple[tuple[Any, dict[str, Any]], ...]

    @classmethod
    def now(cls) -> Shared:
        """Those of the model modules that are imported, of their classes, and of their functions that are modules themselves."""
        owners: dict[int, Any] = {}
        for name, module in list(sys.modules.items()):
            if not name.startswith("transformers.") or ".modeling_" not in name:
                continue
            owners[id(module)] = module
            for value in vars(module).values():
                if isinstance(value, nn.Module) or (isinstance(value, type) and value.__module__ == name):
                    owners[id(value)] = value
        return cls(tuple((owner, dict(vars(owner))) for owner in owners.values()))

    def changes(self) -> tuple[Change, ...]:
        """What has become of them since."""
        return tuple(
            Change(owner, name, before.get(name, ABSENT), vars(owner).get(name, ABSENT))
            for owner, before in self.attributes
            for name in {**before, **vars(owner)}
            if before.get(name, ABSENT) is not vars(owner).get(name, ABSENT) and not _of_python(name)
        )

    def check(self) -> None:
        """Raise if anything is not as it was.

        Raises:
            AssertionError: Naming what is left of a side.
        """
        left = [f"{getattr(change.owner, '__name__', change.owner)}.{change.name}" for change in self.changes()]
        if left:
            raise AssertionError(f"a side has left its mark on the process: {', '.join(left[:5])}")


@contextmanager
def written_down() -> Iterator[list[Change]]:
    """Undo, at the end, what is done to the process meanwhile; the changes are in the list then."""
    shared, changes = Shared.now(), []
    try:
        yield changes
    finally:
        changes += shared.changes()
        for change in changes:
            change.undo()
        shared.check()


@contextmanager
def in_place(changes: tuple[Change, ...]) -> Iterator[None]:
    """Do the changes, and undo them at the end."""
    try:
        for change in changes:
            change.make()
        yield
    finally:
        for change in changes:
            change.undo()


@contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """Packages that cannot be imported meanwhile: transformers runs fla's kernels as its own reference if it finds them."""
    before = {name: sys.modules.get(name) for name in packages}
    sys.modules.update(dict.fromkeys(packages))  # type: ignore[arg-type]  # None is Python's word for "not to be found"
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _put(owner: Any, name: str, value: Any) -> None:
    if value is ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


def _of_python(name: str) -> bool:
    """Whether Python or torch keeps it for itself, as it goes."""
    return name.startswith("_abc_") or name in {"__annotations__", "__annotations_cache__", "__abstractmethods__", "__doc__"}
