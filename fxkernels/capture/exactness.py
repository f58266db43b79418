"""Where a symbolically traced graph would not do as the model does: the checks before, during and after tracing.

Symbolic tracing runs the model's Python once and keeps what it saw. What that Python changes in objects is put back.
"""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections import deque
from collections.abc import Iterator, Mapping
from inspect import Parameter
from itertools import pairwise, zip_longest
from typing import Any

import torch
from torch import fx, nn

from ..annotate import annotated_forward
from ..byte_code import loaded_variable
from .clone import OWN, attributes_of

_METHODS = (types.FunctionType, classmethod, staticmethod, property, functools.cached_property, functools.partialmethod)
_HARMLESS = frozenset(
    {"forward", "__init__", "__new__", "__repr__", "__str__", "_get_name", "extra_repr", "__init_subclass__", "__class_getitem__"}
)
_CALL_HOOKS = frozenset(name for name in OWN if name.startswith(("_forward", "_backward")) and name.endswith("_hooks"))


# --- before: what a graph module would not have -------------------------------------------------------------------------------------------


def more_than_a_graph(model: nn.Module) -> str | None:
    """Return what the model is or offers besides one forward with a fixed number of arguments, as a sentence, or None."""
    name = type(model).__name__
    if annotated_forward(model) is not None:
        return f"the model, a {name}, is itself an annotated layer, of which a graph of its own operations has no call"
    if isinstance(model, fx.GraphModule):
        return f"the model, a {name}, is a graph module already"
    reason = not_traced(model, enters=True)
    if reason is not None:
        return f"the model, a {name}, {reason}"
    return _more_methods(model) or _optional_arguments(model) or _global_hooks()


def _more_methods(model: nn.Module) -> str | None:
    for owner in _user_classes(model):
        for attribute, value in vars(owner).items():
            if not isinstance(value, _METHODS) or attribute in _HARMLESS:
                continue
            if hasattr(nn.Module, attribute):
                return f"the model overrides {owner.__name__}.{attribute}, which a graph module would not have"
            if not attribute.startswith("_") or attribute.endswith("__"):
                return f"the model offers {owner.__name__}.{attribute} besides forward, which a graph module would not have"
    return None


def _optional_arguments(model: nn.Module) -> str | None:
    for parameter in list(inspect.signature(type(model).forward).parameters.values())[1:]:
        if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            return f"the model's forward takes {parameter}, and a graph takes a fixed number of arguments"
        if parameter.default is not Parameter.empty:
            return f"the model's forward has a default for {parameter.name}, and a graph cannot tell whether an argument was given"
    return None


def _global_hooks() -> str | None:
    for name, value in vars(nn.modules.module).items():
        if name.startswith("_global_") and name.endswith("_hooks") and value:
            return f"the model would lose the hooks that are registered for all modules ({name.removeprefix('_global_')})"
    return None


def _user_classes(module: nn.Module) -> Iterator[type]:
    """The classes of a module that are not `nn.Module` or below."""
    for owner in type(module).__mro__:
        if owner not in nn.Module.__mro__ and owner.__module__ not in ("abc", "typing"):
            yield owner


# --- during: what is asked of each module that is called ----------------------------------------------------------------------------------


def not_traced(module: nn.Module, enters: bool) -> str | None:
    """Return what tracing does not see of a call of the module, as the end of a sentence about it, or None.

    Args:
        module: The module.
        enters: Whether it is traced through, or its call is one node.
    """
    if _overrides(module, "__call__"):
        return "overrides __call__, whose operations would run outside of the layer"
    if not enters:
        return None
    hooks = next((name for name in _CALL_HOOKS if vars(module).get(name)), None)
    if hooks is not None:
        return f"has hooks ({hooks.strip('_').replace('_', ' ')}), which would not run"
    for method in ("train", "eval"):
        if _overrides(module, method):
            return f"overrides {method}, which may treat its parts differently"
    if "forward" in vars(module):
        return "has a forward set on the instance, which may be exchanged again"
    return None


def _overrides(module: nn.Module, method: str) -> bool:
    return any(method in vars(owner) for owner in _user_classes(module))


def tested_for_none(cls: type[nn.Module], call: tuple[tuple[Any, ...], dict[str, Any]] | None) -> Iterator[str]:
    """Yield those arguments of the model that the forward of a module in it compares with None itself.

    Args:
        cls: The module's class.
        call: Its arguments while it is traced; None for the model, which gets its own.
    """
    forward = cls.forward
    signature = inspect.signature(forward)
    names = set(signature.parameters)
    if call is not None:
        try:
            arguments = signature.bind(None, *call[0], **call[1]).arguments
        except TypeError:
            return  # the call itself will say what is wrong with it
        names = {name for name, value in arguments.items() if isinstance(value, fx.Proxy) and value.node.op == "placeholder"}
    code = getattr(inspect.unwrap(forward), "__code__", None)
    for one, other in pairwise(dis.get_instructions(code) if code is not None else ()):
        loaded = loaded_variable(one)
        if loaded is None or loaded not in names:
            continue
        # `x is None` in a condition is one jump in 3.11 and later; elsewhere it loads None first.
        if other.opname.endswith(("_IF_NONE", "_IF_NOT_NONE")) or (other.opname == "LOAD_CONST" and other.argval is None):
            yield loaded


# --- after: two graphs --------------------------------------------------------------------------------------------------------------------


def difference(training: fx.Graph, inference: fx.Graph) -> str | None:
    """Return the first place where the graphs of training and of eval mode differ, as a sentence, or None."""
    for one, other in zip_longest(training.nodes, inference.nodes):
        if one is None or other is None or _spelled(one) != _spelled(other):
            stack = (one or other).meta.get("nn_module_stack") or {}
            where = next((path for path, _ in reversed(stack.values()) if path), "the model")
            return f"{where} has other operations in eval mode than in training mode: {(one or other).name}"
    return None


def _spelled(node: fx.Node) -> str:
    """The node as text, with functions by identity: two of them may have one name."""
    return f"{node.op} {node.name} {id(node.target) if callable(node.target) else node.target} {node.args} {node.kwargs}"


_DEPTH = 5
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_OPAQUE = (nn.Module, torch.Tensor, type, types.ModuleType, types.FunctionType, types.MethodType, torch.fx.Graph)


class PythonState:
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
