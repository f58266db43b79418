"""A clone of a model: new module objects over the model's own parameters and buffers.

A clone can get other classes, hooks, training flags and submodules without the model noticing, while weights stay one and the same: its
modules hold the very dictionaries that the model's modules hold, so whatever is moved, loaded or reassigned in one has changed in the
other. It is no deep copy, which fails on locks and caches and doubles the memory.
"""

from __future__ import annotations

import copy
import functools
import weakref
from collections import deque
from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from torch import nn

_FRESH = vars(nn.Module())
SHARED = frozenset({"_parameters", "_buffers", "_non_persistent_buffers_set"})
"""The attributes of a module that a clone has in common with its original, object for object."""

OWN = frozenset(name for name, value in _FRESH.items() if isinstance(value, dict)) - SHARED
"""The dictionaries of a module that a clone has for itself: submodules and every kind of hook."""

_COMPILED = "_compiled_call_impl"
_WEAK = (weakref.ref, weakref.WeakMethod)
_CONTAINERS = (list, tuple, dict, set, frozenset, deque)


def clone_module(model: nn.Module) -> nn.Module:
    """Return a clone of `model`, which is not changed in any way.

    Every module the model can reach (submodules, modules in attributes and in containers there) is cloned once; a module at two places
    stays one module. Its clone has the same class, no matter what ``__init__`` or ``__new__`` would do; the same parameter and buffer
    dictionaries; dictionaries of its own for submodules and hooks, with the same hooks in them; and the same other attributes, except that
    modules in them are the clones, also behind bound methods, `functools.partial` and weak references. Objects that hold modules in ways of
    their own, closures for example, are shared as they are, and so are TorchScript modules. What `nn.Module.compile` made of a module stays
    with the original.

    Example:
        >>> clone = clone_module(model)
        >>> clone.eval()  # the model goes on training
    """
    cloner = _Cloner()
    module = cloner.module(model)
    cloner.finish()
    return module


class _Cloner:
    """Clones modules as empty shells first and fills them one by one, so that cycles and long chains of modules need no recursion."""

    def __init__(self) -> None:
        self._pairs: list[tuple[nn.Module, nn.Module]] = []
        self._clones: dict[int, nn.Module] = {}
        self._containers: dict[int, tuple[Any, Any]] = {}  # by id, with the original, which must not be freed before the end
        self._filled = 0

    def module(self, original: nn.Module) -> nn.Module:
        if isinstance(original, torch.jit.ScriptModule):
            return original
        clone = self._clones.get(id(original))
        if clone is None:
            # Not `type(original).__new__`: FSDP's makes an instance of the class it wraps.
            clone = self._clones[id(original)] = object.__new__(type(original))
            self._pairs.append((clone, original))
        return clone

    def finish(self) -> None:
        while self._filled < len(self._pairs):
            self._fill(*self._pairs[self._filled])
            self._filled += 1

    def _fill(self, clone: nn.Module, original: nn.Module) -> None:
        for name, value in vars(original).items():
            if name == _COMPILED:
                continue
            if name in SHARED:
                mapped = value
            elif name in OWN:
                mapped = self._container(value)
            else:
                mapped = self._mapped(value)
            vars(clone)[name] = mapped
        for name in _slots(type(original)):
            if hasattr(original, name):
                object.__setattr__(clone, name, self._mapped(getattr(original, name)))

    def _mapped(self, value: Any) -> Any:
        """The same value with the clones in place of the modules; the value itself if there are none in it."""
        if not _holds_module(value, set()):
            return value
        kind = type(value)
        if issubclass(kind, nn.Module):
            return self.module(value)
        if isinstance(value, MethodType):
            return MethodType(value.__func__, self._mapped(value.__self__))
        if isinstance(value, functools.partial):
            mapped = kind(
                self._mapped(value.func),
                *map(self._mapped, value.args),
                **{key: self._mapped(item) for key, item in value.keywords.items()},
            )
            vars(mapped).update({name: self._mapped(item) for name, item in vars(value).items()})
            return mapped
        if kind in _WEAK:
            return kind(self._mapped(value()), value.__callback__)
        if kind in weakref.ProxyTypes:
            return weakref.proxy(self.module(_behind_proxy(value)))
        if isinstance(value, _CONTAINERS):
            return self._container(value)
        # A hook that torch has wrapped together with the module on which it was registered.
        mapped = object.__new__(kind)
        vars(mapped).update({name: self._mapped(item) for name, item in vars(value).items()})
        return mapped

    def _container(self, value: Any) -> Any:
        known = self._containers.get(id(value))
        if known is not None:
            return known[1]
        if isinstance(value, tuple | frozenset):
            items = [self._mapped(item) for item in value]
            mapped = value._make(items) if hasattr(value, "_make") else type(value)(items)
            self._containers[id(value)] = (value, mapped)
            return mapped
        mapped = copy.copy(value)
        self._containers[id(value)] = (value, mapped)
        mapped.clear()
        if isinstance(value, dict):
            for key, item in value.items():
                mapped[self._mapped(key)] = self._mapped(item)
        elif isinstance(value, set):
            mapped.update(map(self._mapped, value))
        else:
            mapped.extend(map(self._mapped, value))
        return mapped


def _holds_module(value: Any, seen: set[int]) -> bool:
    kind = type(value)  # not isinstance: a weak proxy of a module says that it is one
    if issubclass(kind, nn.Module):
        return True
    held = _held(value, kind)
    if held is None or id(value) in seen:
        return False
    seen.add(id(value))
    return any(_holds_module(item, seen) for item in held)


def _held(value: Any, kind: type) -> Iterator[Any] | None:
    """What the value holds; None for kinds of values that are not searched."""
    if issubclass(kind, dict):
        return iter((*value.keys(), *value.values()))
    if issubclass(kind, _CONTAINERS):
        return iter(list(value))
    if issubclass(kind, MethodType):
        return iter((value.__self__,))
    if issubclass(kind, functools.partial):
        return iter((value.func, *value.args, *value.keywords.values(), *vars(value).values()))
    if kind in _WEAK:
        return iter((value(),))
    if kind in weakref.ProxyTypes:
        return iter((_behind_proxy(value),))
    if issubclass(kind, torch.Tensor):
        return None
    attributes = attributes_of(value) or {}
    if "with_module" in attributes and "hook" in attributes:  # torch.nn.modules.module._WrappedHook (2.11, 2.13)
        return iter(attributes.values())
    return None


def attributes_of(value: Any) -> dict[str, Any] | None:
    """Return the dictionary of an object's attributes, without running code of the object, or None if it has none."""
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return attributes if type(attributes) is dict else None


def _behind_proxy(value: Any) -> Any:
    """The object behind a weak proxy, or None if it is gone or no module."""
    try:
        return getattr(value.named_modules, "__self__", None)
    except (AttributeError, ReferenceError):
        return None


def _slots(cls: type) -> Iterator[str]:
    for owner in cls.__mro__:
        slots = vars(owner).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                yield f"_{owner.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
