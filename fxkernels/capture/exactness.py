"""Whether a symbolically traced graph does exactly what the model does.

Symbolic tracing runs the model's Python once and keeps what it saw.
"""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Callable, Collection, Iterator
from inspect import Parameter
from itertools import pairwise
from typing import Any

import torch
from torch import fx, nn

from ..annotate import annotated_forward
from ..byte_code import loaded_variable
from ..errors import CaptureError
from .clone import OWN, clone_module
from .symbolic import LayerTracer, trace_clone

_METHODS = (types.FunctionType, classmethod, staticmethod, property, functools.cached_property, functools.partialmethod)
_HARMLESS = frozenset(
    {"forward", "__init__", "__new__", "__repr__", "__str__", "_get_name", "extra_repr", "__init_subclass__", "__class_getitem__"}
)
_CALL_HOOKS = frozenset(name for name in OWN if name.startswith(("_forward", "_backward")) and name.endswith("_hooks"))


def why_not_exact(model: nn.Module, opened: Collection[str] = ()) -> str | None:
    """Return why `model` should not be captured symbolically, as one sentence that names the module, or None if its graph is exact.

    The model is not changed; two clones are traced, one in training mode with gradients and one in eval mode without.

    Args:
        model: Any module.
        opened: Paths of annotated layers that would be traced through.

    Example:
        >>> why_not_exact(model)
        'block.drop has other operations in eval mode than in training mode: dropout'
    """
    reason = _offers_more_than_forward(model) or _takes_optional_arguments(model) or _has_global_hooks()
    if reason is not None:
        return reason
    objection = _objection(model, enters=True)
    if objection is not None:
        return f"the model {objection}"
    try:
        in_training = _trace(model, opened, training=True)
        in_inference = _trace(model, opened, training=False)
    except CaptureError as error:
        return str(error)
    for tracer in (in_training, in_inference):
        reason = _lost_by_tracing(tracer)
        if reason is not None:
            return reason
    return _difference(in_training.graph, in_inference.graph)


def _trace(model: nn.Module, opened: Collection[str], training: bool) -> LayerTracer:
    clone = clone_module(model).module
    for module in clone.modules():
        vars(module)["training"] = training  # by hand: a `train` of the user's own may leave some out
    tracer = LayerTracer(opened, _objection)
    with torch.set_grad_enabled(training):
        trace_clone(clone, tracer)
    return tracer


# --- what can be said without tracing ---------------------------------------------------------------------------------------------------


def _offers_more_than_forward(model: nn.Module) -> str | None:
    name = type(model).__name__
    if annotated_forward(model) is not None:
        return f"the model, a {name}, is itself an annotated layer, of which a graph of its own operations has no call"
    if "forward" in vars(model):
        return f"the model, a {name}, has a forward set on the instance, which torch.fx does not trace"
    for owner in _user_classes(model):
        for attribute, value in vars(owner).items():
            if not isinstance(value, _METHODS) or attribute in _HARMLESS:
                continue
            if hasattr(nn.Module, attribute):
                return f"the model overrides {owner.__name__}.{attribute}, which a graph module would not have"
            if not attribute.startswith("_") or attribute.endswith("__"):
                return f"the model offers {owner.__name__}.{attribute} besides forward, which a graph module would not have"
    return None


def _takes_optional_arguments(model: nn.Module) -> str | None:
    parameters = list(inspect.signature(type(model).forward).parameters.values())[1:]
    for parameter in parameters:
        if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            return f"the model's forward takes {parameter}, and a graph takes a fixed number of arguments"
        if parameter.default is not Parameter.empty:
            return f"the model's forward has a default for {parameter.name}, and a graph cannot tell whether an argument was given"
    return None


def _has_global_hooks() -> str | None:
    for name, value in vars(nn.modules.module).items():
        if name.startswith("_global_") and name.endswith("_hooks") and value:
            return f"the model would lose the hooks that are registered for all modules ({name.removeprefix('_global_')})"
    return None


def _user_classes(module: nn.Module) -> Iterator[type]:
    """The classes of a module that are not `nn.Module` or below."""
    for owner in type(module).__mro__:
        if owner not in nn.Module.__mro__ and owner.__module__ not in ("abc", "typing"):
            yield owner


# --- what is asked of each module before its code runs ------------------------------------------------------------------------------------


def _objection(module: nn.Module, enters: bool) -> str | None:
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


# --- what tracing has shown ---------------------------------------------------------------------------------------------------------------


def _lost_by_tracing(tracer: LayerTracer) -> str | None:
    if tracer.obstacles:
        return tracer.obstacles[0]
    if tracer.created:
        made = "a tensor" if "tensor" in tracer.created[0] else "an object"
        return f"the model makes {made} while it runs, and a graph would keep the first one"
    if tracer.changed is not None:
        return f"{tracer.changed} was changed by running the model, and a graph would not change it"
    for path, forward, names in tracer.given:
        tested = next(_tested_for_none(forward, names), None)
        if tested is not None:
            return f"{path or 'the model'} tests whether its argument {tested} is None, and a graph keeps one answer"
    return None


def _overrides(module: nn.Module, method: str) -> bool:
    return any(method in vars(owner) for owner in _user_classes(module))


def _tested_for_none(function: Callable[..., Any], names: Collection[str]) -> Iterator[str]:
    """Those of the parameters that the function compares with None itself."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    for one, other in pairwise(dis.get_instructions(code) if code is not None else ()):
        loaded = loaded_variable(one)
        if loaded is None or loaded not in names:
            continue
        # `x is None` in a condition is one jump in 3.11 and later; elsewhere it loads None first.
        if other.opname.endswith(("_IF_NONE", "_IF_NOT_NONE")) or (other.opname == "LOAD_CONST" and other.argval is None):
            yield loaded


# --- two graphs ---------------------------------------------------------------------------------------------------------------------------


def _difference(training: fx.Graph, inference: fx.Graph) -> str | None:
    """The first place where the graphs differ, as a sentence."""
    one, other = list(training.nodes), list(inference.nodes)
    for left, right in zip(one, other, strict=False):
        if not _same_node(left, right):
            return f"{_where(left)} has other operations in eval mode than in training mode: {left.name}"
    if len(one) != len(other):
        longer = max(one, other, key=len)
        return f"{_where(longer[min(len(one), len(other))])} has other operations in eval mode than in training mode"
    return None


def _where(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return next((path for path, _ in reversed(stack.values()) if path), "the model")


def _same_node(left: fx.Node, right: fx.Node) -> bool:
    same = left.op == right.op and left.name == right.name and left.target == right.target
    return same and _same_value(left.args, right.args) and _same_value(left.kwargs, right.kwargs)


def _same_value(left: Any, right: Any) -> bool:
    if isinstance(left, fx.Node):
        return isinstance(right, fx.Node) and left.name == right.name
    if type(left) is not type(right):
        return False
    if isinstance(left, tuple | list):
        return len(left) == len(right) and all(map(_same_value, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(_same_value(left[key], right[key]) for key in left)
    if isinstance(left, slice):
        return _same_value((left.start, left.stop, left.step), (right.start, right.stop, right.step))
    return left is right or bool(left == right) or (left != left and right != right)
