"""What tracing a model may change by running its Python code: noticed, and put back."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .clone import attributes_of

_DEPTH = 5
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_OPAQUE = (nn.Module, torch.Tensor, type, types.ModuleType, types.FunctionType, types.MethodType, torch.fx.Graph)


class Snapshot:
    """The contents of every mutable Python object that some modules hold: their attributes, and the containers and objects in these.

    A clone shares such objects with its model, so what tracing writes into them (an append to a list, an entry in a cache) would be a
    change of the model. Tensors are not among them: while tracing, an operation on a tensor is recorded and not carried out. Objects that
    keep their contents in C are not seen.

    Args:
        modules: The modules by path.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._taken: dict[int, tuple[str, Any, Any]] = {}
        for path, module in modules.items():
            self._take(path, vars(module), _DEPTH)

    def restore(self) -> str | None:
        """Put everything back and return the path of the first thing that had changed, or None."""
        changed: list[str] = []
        for path, value, before in self._taken.values():
            if isinstance(value, dict):
                missing = object()
                found = [name for name in {**value, **before} if value.get(name, missing) is not before.get(name, missing)]
            else:
                found = [] if list(map(id, value)) == list(map(id, before)) else [""]
            if found:
                changed.append(f"{path}.{found[0]}".strip("."))
                value.clear()
                (value.update if hasattr(value, "update") else value.extend)(before)
        return changed[0] if changed else None

    def _take(self, path: str, value: Any, depth: int) -> None:
        """Remember the value's contents, and those of what it holds."""
        kind = type(value)  # not isinstance: a weak proxy says that it is what it refers to
        if not issubclass(kind, _CONTAINERS):
            value = None if issubclass(kind, _OPAQUE) else attributes_of(value)
        if value is None or depth == 0 or id(value) in self._taken:
            return
        if not isinstance(value, tuple | frozenset):
            self._taken[id(value)] = (path, value, dict(value) if isinstance(value, dict) else list(value))
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            self._take(f"{path}.{name}".strip(".") if depth == _DEPTH else path, item, depth - 1)
