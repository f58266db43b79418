"""What tracing a model may change by running its Python code: noticed, and put back."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from .clone import attributes_of

_DEPTH = 4
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_OPAQUE = (
    nn.Module,
    torch.Tensor,
    type,
    types.ModuleType,
    types.FunctionType,
    types.MethodType,
    torch.fx.Graph,
    torch.fx.Node,
    torch.fx.Proxy,
)


class Snapshot:
    """The contents of every mutable Python object that some modules hold: their attributes, and the containers and objects in these.

    A clone shares such objects with its model, so what tracing writes into them (an append to a list, an entry in a cache) would be a
    change of the model. Tensors are not among them: while tracing, an operation on a tensor is recorded and not carried out. Objects that
    keep their contents in C are not seen.

    Args:
        modules: The modules by path.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._seen: set[int] = set()
        self._taken: list[tuple[str, Any, Any]] = []
        for path, module in modules.items():
            self._take(path, vars(module))
            for name, value in vars(module).items():
                self._explore(f"{path}.{name}" if path else name, value, _DEPTH)

    def restore(self, keep: Iterable[str] = ()) -> str | None:
        """Put everything back and return the path of the first thing that had changed, or None.

        Args:
            keep: Names of new attributes that stay and count as no change.
        """
        kept = set(keep)
        changed: str | None = None
        for path, value, before in self._taken:
            difference = _difference(value, before, kept)
            if difference is None:
                continue
            if changed is None:
                changed = f"{path}.{difference}".strip(".") if difference else path
            _put_back(value, before, kept)
        return changed

    def _explore(self, path: str, value: Any, depth: int) -> None:
        kind = type(value)  # not isinstance: a weak proxy says that it is what it refers to
        if depth == 0 or issubclass(kind, _OPAQUE) or id(value) in self._seen:
            return
        if not issubclass(kind, _CONTAINERS):
            value = attributes_of(value)
            if value is None:
                return
        items = list(value.values()) if isinstance(value, dict) else list(value)
        if not isinstance(value, tuple | frozenset):
            self._take(path, value)
        for item in items:
            self._explore(path, item, depth - 1)

    def _take(self, path: str, value: Any) -> None:
        if id(value) not in self._seen:
            self._seen.add(id(value))
            self._taken.append((path, value, dict(value) if isinstance(value, dict) else list(value)))


def _difference(value: Any, before: Any, kept: set[str]) -> str | None:
    """None if nothing changed, the name of what did in a dictionary with such names, or else an empty string."""
    if isinstance(value, dict):
        for key in (*value, *before):
            if key not in kept and (key not in value or key not in before or value[key] is not before[key]):
                return key if isinstance(key, str) else ""
        return None
    now = list(value)
    if isinstance(value, set):
        return None if {id(item) for item in now} == {id(item) for item in before} else ""
    return None if len(now) == len(before) and all(one is other for one, other in zip(now, before, strict=True)) else ""


def _put_back(value: Any, before: Any, kept: set[str]) -> None:
    if isinstance(value, dict):
        new = {key: item for key, item in value.items() if key in kept and key not in before}
        value.clear()
        value.update({**before, **new})
    elif isinstance(value, set):
        value.clear()
        value.update(before)
    else:
        value.clear()
        value.extend(before)
