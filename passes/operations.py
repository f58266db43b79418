"""The canonical form of an operation: what a node computes, whichever way it was written.

``x + y``, ``torch.add(x, y)``, ``x.add(y)`` and ``x.add_(y)`` are one operation. A default argument that is left out equals one that
is given. Names and defaults of arguments are those of torch's own operators (`torch.ops.aten`); a function that is no operator has those
of its signature.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import fx

from .effects import is_operator, name_of

_ALIASES: dict[str, str] = {
    **{name: name.removeprefix("i") for name in ("iadd", "isub", "imul")},
    **dict.fromkeys(("truediv", "itruediv", "true_divide", "divide"), "div"),
    "multiply": "mul",
    "subtract": "sub",
    "negative": "neg",
    "view": "reshape",
    "concat": "cat",
    "concatenate": "cat",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "float": "to",
    "half": "to",
    "bfloat16": "to",
    "double": "to",
    "type_as": "to",
    "setitem": "index_put",
    "_grouped_mm": "grouped_mm",
    "grouped_mm_fallback": "grouped_mm",
}
_CASTS = {"float": torch.float32, "half": torch.float16, "bfloat16": torch.bfloat16, "double": torch.float64}
_TAKES_SIZES = frozenset(("reshape", "expand", "permute", "repeat", "tile"))
_COMMUTES = frozenset(("add", "mul", "eq", "ne", "logical_and", "logical_or", "bitwise_and", "bitwise_or", "maximum", "minimum"))
_RENAMED = {"input": "self", "axis": "dim", "keepdims": "keepdim"}
_SAYS_NOTHING = frozenset(("_stacklevel", "inplace"))
"""Arguments that change no value. Whether an operation in place may be replaced is a question for the gates of the region."""

_REQUIRED: Any = object()


@dataclass(frozen=True, slots=True)
class Operation:
    """What one node computes.

    Args:
        name: The operation's name, e.g. ``add``.
        arguments: Its arguments by name, defaults filled in. Those of an operation with an unknown signature are named by position.
    """

    name: str
    arguments: Mapping[str, Any]

    @property
    def commutes(self) -> bool:
        """Whether its first two arguments may change places."""
        return self.name in _COMMUTES


def canonical_name(node: fx.Node) -> str:
    """Return the operation's name; empty for a node that computes nothing (a placeholder, a constant, the output)."""
    if node.op not in ("call_function", "call_method"):
        return ""
    name = name_of(node)
    if is_operator(node.target):
        name = str(node.target).split(".")[1]
    if name == "getitem" and _inserted_dimension(node.args[1]) is not None:
        return "unsqueeze"
    if node.op == "call_method" and name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    return _ALIASES.get(name, name)


def operation_of(node: fx.Node) -> Operation:
    """Return the canonical form of a `call_function` or `call_method` node."""
    name, args, kwargs = canonical_name(node), node.args, node.kwargs
    written = name_of(node)
    if name == "unsqueeze" and written == "getitem":
        return Operation(name, {"self": args[0], "dim": _inserted_dimension(args[1])})
    if name == "getitem":
        return Operation(name, {"self": args[0], "index": _index(args[1])})
    if name == "to":
        return Operation(name, _cast(written, args, kwargs))
    if written == "setitem":
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return Operation(name, {"self": args[0], "indices": index, "values": args[2], "accumulate": False})
    if name == "grouped_mm":  # transformers has an operator of its own for the dtypes that torch's lacks (5.22 to 5.24)
        given = dict(zip(("self", "mat2", "offs", "bias", "out_dtype"), args, strict=False)) | dict(kwargs)
        return Operation(name, {"offs": None, "bias": None, "out_dtype": None} | given)
    if name in _TAKES_SIZES and len(args) > 1 and isinstance(args[1], int | fx.Node):
        args = (args[0], tuple(args[1:]))
    arguments = _bound(name, node.target, args, kwargs)
    if name == "transpose":
        arguments |= dict(zip(("dim0", "dim1"), _sorted(arguments["dim0"], arguments["dim1"]), strict=True))
    return Operation(name, arguments)


def _sorted(first: Any, second: Any) -> tuple[Any, Any]:
    """Two dimensions that change places, in one order."""
    comparable = type(first) is int and type(second) is int and (first < 0) is (second < 0)
    return (second, first) if comparable and second < first else (first, second)


def _bound(name: str, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    named = {_RENAMED.get(key, key): value for key, value in kwargs.items()}
    for signature in _signatures(name, target if type(target) is FunctionType else None):
        bound = _bind(signature, args, named)
        if bound is not None:
            return {key: value for key, value in bound.items() if key not in _SAYS_NOTHING}
    return {**{f"argument {place}": value for place, value in enumerate(args)}, **named}


_Signature = tuple[tuple[str, Any, bool], ...]
"""Names of parameters, their defaults, and whether they are given by keyword only."""


def _bind(signature: _Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    positional = [name for name, _, by_keyword in signature if not by_keyword]
    names = {name for name, _, _ in signature}
    given = dict(zip(positional, args, strict=False))
    if len(args) > len(positional) or not kwargs.keys() <= names or given.keys() & kwargs.keys():
        return None
    bound = {name: default for name, default, _ in signature} | given | dict(kwargs)
    return None if any(value is _REQUIRED for value in bound.values()) else bound


@functools.cache
def _signatures(name: str, function: FunctionType | None) -> tuple[_Signature, ...]:
    if function is not None:
        parameters = inspect.signature(function).parameters.values()
        if not any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters):
            return (tuple([_parameter(each) for each in parameters]),)
    packet = getattr(torch.ops.aten, name, None)
    return tuple(_schemas(packet)) if packet is not None else ()


def _parameter(parameter: inspect.Parameter) -> tuple[str, Any, bool]:
    default = _REQUIRED if parameter.default is parameter.empty else parameter.default
    return _RENAMED.get(parameter.name, parameter.name), default, parameter.kind is parameter.KEYWORD_ONLY


def _schemas(packet: Any) -> Iterator[_Signature]:
    for overload in packet.overloads():
        arguments = getattr(packet, overload)._schema.arguments
        if any(argument.is_out for argument in arguments):
            continue
        yield tuple(
            [
                (
                    _RENAMED.get(argument.name, argument.name),
                    argument.default_value if argument.has_default_value() else _REQUIRED,
                    argument.kwarg_only,
                )
                for argument in arguments
            ]
        )


def _cast(written: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """`Tensor.to` takes a dtype, a device or another tensor in any place."""
    cast: dict[str, Any] = {"self": args[0], "dtype": _CASTS.get(written), "device": None, "other": None}
    for value in args[1:]:
        if isinstance(value, torch.dtype):
            cast["dtype"] = value
        elif isinstance(value, torch.device | str):
            cast["device"] = value
        elif isinstance(value, fx.Node):
            cast["other"] = value
        elif not isinstance(value, bool):
            cast["dtype"] = value  # a wildcard of a pattern
    return cast | {key: value for key, value in kwargs.items() if key in ("dtype", "device", "other")}


def _index(index: Any) -> Any:
    """An index without full slices at its end; they select everything."""
    if not isinstance(index, tuple):
        return index if isinstance(index, int) else (index,)
    kept = list(index)
    while kept and isinstance(kept[-1], slice) and kept[-1] == slice(None) and Ellipsis not in kept:
        kept.pop()
    return tuple(kept)


def _inserted_dimension(index: Any) -> int | None:
    """The dimension that an index inserts, if it does nothing else: ``x[:, :, None]``, ``x[..., None]``."""
    items = index if isinstance(index, tuple) else (index,)
    if sum(item is None for item in items) != 1:
        return None
    place = next(number for number, item in enumerate(items) if item is None)
    before, after = items[:place], items[place + 1 :]
    if before == (Ellipsis,) and all(map(_is_full, after)):
        return -1 - len(after)
    return place if all(map(_is_full, (*before, *after))) else None


def _is_full(item: Any) -> bool:
    return isinstance(item, slice) and item == slice(None)
