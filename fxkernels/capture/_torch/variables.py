"""The variables of a frame that Dynamo traces. Reading one may install guards; each function says so."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import torch
from torch import fx
from torch._dynamo import variables as vt

Frame = Any
"""One frame that Dynamo is tracing (an instruction translator); its type differs by version."""

Variable = Any
"""Dynamo's variable for a Python value of the traced program; its type differs by version."""


def realized(variable: Variable) -> Variable:
    """Return the real variable behind a lazy one. This installs the guards of its value."""
    return variable.realize() if hasattr(variable, "realize") else variable


def peek(frame: Frame, variable: Variable) -> Any:
    """Return the Python object behind a variable without installing a guard, or None if there is none."""
    if isinstance_lazy(variable):
        return variable.peek_value()
    variable = realized(variable)
    if isinstance(variable, vt.NNModuleVariable):
        return frame.output.get_submodule(variable.module_key)
    return variable.value if isinstance(variable, vt.UserDefinedObjectVariable) else None


def type_name(variable: Variable) -> str:
    """Return the name of the Python type that the variable stands for."""
    try:
        return str(realized(variable).python_type().__name__)
    except NotImplementedError:
        return type(variable).__name__


def isinstance_lazy(variable: Variable) -> bool:
    """Whether the variable has not been read yet."""
    return hasattr(variable, "is_realized") and not variable.is_realized()


def attribute(frame: Frame, variable: Variable, dotted: str) -> Variable:
    """Return the variable of an attribute. This installs its guards."""
    variable = realized(variable)
    for name in dotted.split("."):
        # torch 2.14 has renamed the method
        lookup = variable.tp_getattro_impl if hasattr(variable, "tp_getattro_impl") else variable.var_getattr
        variable = realized(lookup(frame, name))
    return variable


def constant(variable: Variable) -> Any:
    """Return the Python constant that the variable stands for.

    Raises:
        ValueError: If it is not a constant in this graph.
    """
    variable = realized(variable)
    if not variable.is_python_constant():
        raise ValueError(f"{variable} is no constant")
    return variable.as_python_constant()


def unpacked(frame: Frame, variable: Variable) -> list[Variable]:
    """Return the variables in a tuple of positional arguments."""
    return list(realized(variable).unpack_var_sequence(frame))


def unpacked_keywords(variable: Variable) -> dict[str, Variable]:
    """Return the variables in a dict of keyword arguments."""
    items = realized(variable).items.items()
    return {(key.vt if hasattr(key, "vt") else key).as_python_constant(): value for key, value in items}


_LEAVES = (
    fx.Proxy,
    bool,
    int,
    float,
    complex,
    str,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
    torch.Size,
    type(None),
    type(...),
)


def graph_argument(variable: Variable) -> Any:
    """Return the variable as an argument of a graph node (proxies and constants, in containers if need be).

    Raises:
        ValueError: If it is no graph value, such as a cache object.
    """
    try:
        value = realized(variable).as_proxy()
    except Exception as error:  # what it raises differs by kind of variable and by torch version (2.11, 2.13)
        raise ValueError("no graph value") from error
    if not _is_argument(value):
        raise ValueError("no graph value")
    return value


def _is_argument(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_argument, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_argument(item) for key, item in value.items())
    if isinstance(value, slice):
        return _is_argument((value.start, value.stop, value.step))
    return isinstance(value, _LEAVES)


def output_proxies(frame: Frame, variable: Variable) -> list[fx.Proxy]:
    """Return the tensors in a call's result in order: a tensor, a list or tuple, a dict, or a dataclass."""
    variable = realized(variable)
    if isinstance(variable, vt.TensorVariable):
        return [variable.as_proxy()]
    return list(itertools.chain.from_iterable(output_proxies(frame, item) for item in _contents(frame, variable)))


def _contents(frame: Frame, variable: Variable) -> list[Variable]:
    if variable.is_python_constant():
        return []
    for inner in ("_base_vt", "_dict_vt", "_tuple_vt", "_list_vt"):  # user-defined subclasses of containers; the names differ by version
        container = getattr(variable, inner, None)
        if container is not None:
            return _contents(frame, container)
    items = getattr(variable, "items", None)
    if isinstance(items, dict):
        return list(items.values())
    if isinstance(items, list | tuple):
        return list(items)
    fields = getattr(variable, "fields", None)
    if isinstance(fields, dict):  # frozen dataclasses
        return list(fields.values())
    if dataclasses.is_dataclass(getattr(variable, "value_type", None)):
        written = frame.output.side_effects.store_attr_mutations.get(variable, {})
        return [written[field.name] for field in dataclasses.fields(variable.value_type) if field.name in written]
    return []
