"""Two signatures side by side, the kernel's and the reference's: where they differ, and how a call of one becomes a call of the other."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (*_POSITIONAL, Parameter.KEYWORD_ONLY)
_SIGNATURES: WeakKeyDictionary[type, Signature] = WeakKeyDictionary()


def forward_signature(cls: type[nn.Module]) -> Signature:
    """Return the signature of the class's forward without ``self``.

    Raises:
        TypeError, ValueError: If it has none, e.g. because it is no Python function or takes no arguments at all.
    """
    signature = _SIGNATURES.get(cls)
    if signature is None:
        whole = inspect.signature(cls.forward)
        first, *rest = whole.parameters.values() or [None]
        if first is None:
            raise ValueError("it takes no self")
        own = [] if first.kind is not Parameter.VAR_POSITIONAL else [first]
        signature = _SIGNATURES[cls] = whole.replace(parameters=[*own, *rest])
    return signature


def signature_difference(kernel: Signature, reference: Signature, bound_positional: int, passed_keywords: Sequence[str]) -> str | None:
    """Return the first difference that matters for this call, as a phrase, or None.

    Parameters correspond by position, keyword-only ones by name. Names of positional parameters may differ, except that a name must not
    mean another parameter on the other side (``sin, cos`` against ``cos, sin``). Defaults matter for what the call leaves out. Annotations
    are not compared.

    Args:
        kernel: Signature of the kernel's forward, without ``self``.
        reference: Signature of what it replaces, without ``self``.
        bound_positional: How many arguments the call passes by position.
        passed_keywords: The names of those it passes by keyword.
    """
    ours, theirs = list(kernel.parameters.values()), list(reference.parameters.values())
    if len(ours) != len(theirs):
        return f"they differ in the number of parameters ({len(ours)} and {len(theirs)})"
    for position, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        if own.kind is not other.kind:
            return f"parameter {position + 1} is {own.kind.description} ({own.name}) here and {other.kind.description} ({other.name}) there"
        if own.kind is Parameter.KEYWORD_ONLY:
            namesake = reference.parameters.get(own.name)
            if namesake is None or namesake.kind is not Parameter.KEYWORD_ONLY:
                return f"keyword-only parameter {own.name} has no counterpart"
            other = namesake
        difference = _name_difference(own, other, reference, passed_keywords)
        if difference is not None:
            return difference
        passed = position < bound_positional if own.kind in _POSITIONAL else False
        if own.kind in _NAMED and not passed and other.name not in passed_keywords and not _same(own.default, other.default):
            return f"the call leaves out {other.name}, whose default differs"
    return None


def kernel_arguments(
    kernel: Signature, reference: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn a call of the reference into the same call of the kernel: what has a position by position, keyword-only arguments by name.

    The values are not looked at; graph nodes will do. A parameter left out before one that was passed gets the reference's default.

    Args:
        kernel: Signature of the kernel's forward, without ``self``; it agrees with the reference's.
        reference: Signature of what it replaces, without ``self``.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call, by the reference's names.

    Raises:
        TypeError: If the reference itself could not be called like this.

    Example:
        >>> kernel_arguments(signature(lambda x, dim=1: ...), signature(lambda input, axis=1: ...), (1,), {"axis": 2})
        ((1, 2), {})
    """
    given = reference.bind(*args, **kwargs).arguments
    parameters = list(reference.parameters.values())
    positional = [parameter for parameter in parameters if parameter.kind in _POSITIONAL]
    while positional and positional[-1].name not in given:
        positional.pop()
    values = [given.get(parameter.name, parameter.default) for parameter in positional]
    keywords: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind is Parameter.VAR_POSITIONAL:
            values += given.get(parameter.name, ())
        elif parameter.kind is Parameter.VAR_KEYWORD:
            keywords |= given.get(parameter.name, {})
        elif parameter.kind is Parameter.KEYWORD_ONLY and parameter.name in given:
            keywords[parameter.name] = given[parameter.name]
    kernel.bind(*values, **keywords)  # speaks up here rather than in the middle of the model
    return tuple(values), keywords


def _name_difference(own: Parameter, other: Parameter, reference: Signature, passed_keywords: Sequence[str]) -> str | None:
    if own.name == other.name or own.kind not in _NAMED:
        return None
    namesake = reference.parameters.get(own.name)
    if namesake is not None and namesake.kind in _NAMED:
        return f"{own.name} stands where the layer has {other.name}"
    if own.name in passed_keywords and own.kind is Parameter.POSITIONAL_OR_KEYWORD:
        return f"the call passes {own.name} among further keywords, which the kernel would take for {other.name}"
    return None


def _same(one: Any, other: Any) -> bool:
    """Whether two defaults are the same value; 1, 1.0 and True are not, and tensors only if they are one object."""
    if one is other:
        return True
    return type(one) is type(other) and isinstance(one, Hashable) and not isinstance(one, torch.Tensor) and bool(one == other)
