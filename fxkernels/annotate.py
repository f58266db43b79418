"""Mark a layer class or a function with the layer name under which kernels are mapped to it. Marking changes nothing else."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any, TypeVar

from .annotations_in_source import source_annotation

Annotated = TypeVar("Annotated", bound=Callable[..., Any])
Condition = Callable[[Any], bool]

_names: set[str] = set()
_functions: weakref.WeakSet[FunctionType] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class Annotation:
    """What a class or a function is annotated with.

    Args:
        layer_name: The layer name.
        condition: Called with the layer; False keeps the original for that layer.
        source: ``"attribute"``, or the ``file:line`` of the decorator that it was read from.
    """

    layer_name: str
    condition: Condition | None = None
    source: str = "attribute"


def use_kernel_forward_from_hub(name: str, condition: Condition | None = None) -> Callable[[Annotated], Annotated]:
    """Return a decorator that marks a layer class or a function with the layer name `name`.

    The class or function itself comes back: a function stays a function that can be called, pickled and copied.

    Args:
        name: The layer name, a key of mappings.
        condition: Called with the layer (with the function, where a function is marked); False keeps the original for that layer.

    Raises:
        ValueError: If the name is empty, or if the function only wraps one that already has this name.
        TypeError: If the name is no string, or what is decorated is neither a class with a ``forward`` nor a function.

    Example:
        >>> @use_kernel_forward_from_hub("RMSNorm")
        ... class Norm(nn.Module): ...
    """
    _check_name_and_condition(name, condition)

    def annotate(target: Annotated) -> Annotated:
        if inspect.isclass(target):
            replace_kernel_forward_from_hub(target, name, condition)
        elif inspect.isfunction(target):
            _annotate_function(target, name, condition)
        else:
            raise TypeError(f"use_kernel_forward_from_hub({name!r}) marks classes and functions, not {target!r}")
        return target

    return annotate


def replace_kernel_forward_from_hub(cls: type, name: str, condition: Condition | None = None) -> None:
    """Mark a layer class of another library with the layer name `name`.

    Prefer the decorator for classes of your own: a third party may change its layer and not know that kernels are mapped to it.

    Args:
        cls: The layer class; a subclass that has a ``forward`` of its own is not marked by it.
        name: The layer name, a key of mappings.
        condition: Called with the layer; False keeps the original for that layer.

    Raises:
        ValueError: If the name is empty.
        TypeError: If the name is no string or `cls` is no class with a ``forward``.

    Example:
        >>> replace_kernel_forward_from_hub(nn.RMSNorm, "RMSNorm")
    """
    _check_name_and_condition(name, condition)
    if not inspect.isclass(cls):
        raise TypeError(f"replace_kernel_forward_from_hub marks a class, not {cls!r}; for a function use use_kernel_forward_from_hub")
    if not callable(getattr(cls, "forward", None)):
        raise TypeError(f"{cls.__qualname__} has no `forward` that a kernel could replace, so it cannot be marked as {name!r}")
    # The attribute names are those of the `kernels` package: a class marked by either is marked for both. The static method keeps an
    # instance from binding the condition. None is set too, so that a subclass that is marked anew does not inherit its parent's condition.
    _names.add(name)
    setattr(cls, "kernel_layer_name", name)  # noqa: B010  (mypy knows no such attribute on `type`)
    setattr(cls, "kernel_condition", None if condition is None else staticmethod(condition))  # noqa: B010


def use_kernelized_func(*functions: Callable[..., Any] | list[Callable[..., Any]]) -> Callable[[type], type]:
    """Return a class decorator that records which annotated functions the layer's ``forward`` calls.

    Args:
        functions: Annotated functions, one by one or in a list.

    Raises:
        ValueError: If one of them is not annotated; the message names it.
        TypeError: If what is decorated is not a class.

    Example:
        >>> @use_kernelized_func(apply_rotary_pos_emb)
        ... class Attention(nn.Module): ...
    """
    flat: list[Callable[..., Any]] = []
    for item in functions:
        flat.extend(item if isinstance(item, (list, tuple)) else [item])
    for function in flat:
        if layer_name_of(function) is None:
            shown = getattr(function, "__qualname__", None) or repr(function)
            raise ValueError(f"{shown} is not annotated; decorate it with use_kernel_forward_from_hub(name) first")

    def record(cls: type) -> type:
        if not inspect.isclass(cls):
            raise TypeError(f"use_kernelized_func decorates a class, not {cls!r}")
        # Nothing is attached to instances and `__init__` stays as it is: capture sees every call of an annotated function, wherever it is
        # made. The record is there for people and tools that ask which functions a layer uses.
        inherited = getattr(cls, "kernel_functions", ())
        setattr(cls, "kernel_functions", (*inherited, *(function for function in flat if function not in inherited)))  # noqa: B010
        return cls

    return record


def annotated_names() -> frozenset[str]:
    """Return the layer names that were given by this module in this process."""
    return frozenset(_names)


def annotation_of(obj: object) -> Annotation | None:
    """Return what a class, a module or a function is annotated with, or None if it is not annotated.

    A subclass has its parent's annotation even where it overrides ``forward``; whether that still holds is what `annotated_forward` says.
    Classes and functions annotated by the `kernels` package (which turns functions into modules) count. Where a decorator of that package,
    or of transformers, did nothing, its layer name is read from the source. ``kernel_layer_name = None`` takes an annotation back.
    """
    if inspect.isfunction(obj):
        return _own_annotation(obj)
    found = _annotation_and_owner(obj if inspect.isclass(obj) else type(obj))
    return found[0] if found is not None else None


def layer_name_of(obj: object) -> str | None:
    """Return the layer name of a class, a module or a function, or None if it has none. See `annotation_of`."""
    found = annotation_of(obj)
    return None if found is None else found.layer_name


def condition_of(obj: object) -> Condition | None:
    """Return the condition that a class, a module or a function was annotated with, or None if it has none."""
    found = annotation_of(obj)
    return None if found is None else found.condition


def annotated_forward(obj: object) -> FunctionType | None:
    """Return the function that a kernel may replace: a class's or module's annotated ``forward``, or the annotated function itself.

    None for what is not annotated, for a subclass that overrides ``forward`` without being annotated anew, and for a module with a
    ``forward`` set on the instance: what they compute is not what was annotated.
    """
    if inspect.isfunction(obj):
        return obj if _own_annotation(obj) is not None else None
    if not inspect.isclass(obj):
        return None if "forward" in getattr(obj, "__dict__", ()) else annotated_forward(type(obj))
    found = _annotation_and_owner(obj)
    if found is None:
        return None
    forward = getattr(obj, "forward", None)
    return forward if inspect.isfunction(forward) and forward is getattr(found[1], "forward", None) else None


def _annotation_and_owner(cls: type) -> tuple[Annotation, type] | None:
    """The annotation of a class, and which class of its bases it stands at."""
    for owner in cls.__mro__:
        if "kernel_layer_name" in vars(owner):
            name = vars(owner)["kernel_layer_name"]
            return None if name is None else (Annotation(str(name), getattr(cls, "kernel_condition", None)), owner)
        written = source_annotation(owner)
        if written is not None:
            return Annotation(written.layer_name, None, written.location), owner
    return None


def annotated_functions() -> tuple[FunctionType, ...]:
    """Return all functions that `use_kernel_forward_from_hub` has marked."""
    return tuple(_functions)


def _own_annotation(function: FunctionType) -> Annotation | None:
    """The annotation of this very function. A wrapper made with `functools.wraps` has the attribute too, but computes something else."""
    attributes = vars(function)
    if "kernel_layer_name" not in attributes:
        written = source_annotation(function)
        return None if written is None else Annotation(written.layer_name, None, written.location)
    name = attributes["kernel_layer_name"]
    if name is None or getattr(attributes.get("__wrapped__"), "kernel_layer_name", None) == name:
        return None
    return Annotation(str(name), attributes.get("kernel_condition"))


def _annotate_function(function: FunctionType, name: str, condition: Condition | None) -> None:
    if layer_name_of(vars(function).get("__wrapped__")) == name:
        raise ValueError(f"{function.__qualname__} wraps a function that is already marked as {name!r}; mark only one of the two")
    _names.add(name)
    function.kernel_layer_name = name  # type: ignore[attr-defined]
    function.kernel_condition = condition  # type: ignore[attr-defined]
    _functions.add(function)


def _check_name_and_condition(name: object, condition: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a layer name is a string, not {name!r}; write use_kernel_forward_from_hub('RMSNorm') with parentheses and a name")
    if not name.strip():
        raise ValueError("a layer name cannot be empty; it is the key under which mappings find kernels")
    if condition is not None and not callable(condition):
        raise TypeError(f"the condition of layer name {name!r} must be callable with the layer as its argument, not {condition!r}")
