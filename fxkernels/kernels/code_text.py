"""A node of a graph as text: its call as a person would write it in Python, and dtype, shape and strides of its value."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import sympy
import torch
import torch.nn.functional as F
from torch import fx

from .call import Slot

_SHORT_DTYPES = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.bool: "bool",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.complex64: "c64",
    torch.complex128: "c128",
}

_BINARY = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.pow: "**",
    operator.matmul: "@",
    operator.and_: "&",
    operator.or_: "|",
    operator.xor: "^",
    operator.lshift: "<<",
    operator.rshift: ">>",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
}
_IN_PLACE = {
    operator.iadd: "+=",
    operator.isub: "-=",
    operator.imul: "*=",
    operator.itruediv: "/=",
    operator.ifloordiv: "//=",
    operator.imod: "%=",
    operator.ipow: "**=",
    operator.imatmul: "@=",
    operator.iand: "&=",
    operator.ior: "|=",
    operator.ixor: "^=",
    operator.ilshift: "<<=",
    operator.irshift: ">>=",
}
_UNARY = {operator.neg: "-", operator.pos: "+", operator.invert: "~"}

# torch has no public names for these types.
_Packet: Any = type(torch.ops.aten.add)
_Overload: Any = type(torch.ops.aten.add.Tensor)

Names = Mapping[Any, str]
"""What values are called: nodes of a graph, or the slots of a kernel's arguments."""


def is_assignment(node: fx.Node) -> bool:
    """Whether the node is written as a statement that changes its first argument: ``x += y``, ``x[0] = y``."""
    return node.op == "call_function" and (node.target is operator.setitem or node.target in _IN_PLACE)


def code_of(node: fx.Node, names: Names) -> str:
    """Return a node's call as Python, e.g. ``x.pow(2)``, ``torch.rsqrt(x)``, ``x * y``, ``x[..., :4]``.

    Args:
        node: A node that computes something.
        names: What its arguments are called.
    """
    args = [spelled(arg, names) for arg in node.args]
    if node.op == "call_function":
        written = _as_operator(node.target, node.args, args, names)
        if written is not None:
            return written
    keywords = [f"{name}={spelled(value, names)}" for name, value in node.kwargs.items()]
    if node.op == "call_method":
        return f"{args[0]}.{node.target}({', '.join([*args[1:], *keywords])})"
    if node.op == "get_attr":
        return f"graph.{node.target}"
    function = f"self.{node.target}" if isinstance(node.target, str) else function_name(node.target)
    return f"{function}({', '.join([*args, *keywords])})"


def spelled(value: Any, names: Names) -> str:
    """Return an argument as Python."""
    kind = type(value)
    if kind is fx.Node or kind is Slot:
        return names[value]
    if kind is str:
        return repr(value)
    if kind is float:
        return repr(value) if math.isfinite(value) else f"float('{value}')"
    if value is ...:
        return "..."
    if isinstance(value, torch.device):
        return repr(str(value))
    if isinstance(value, tuple):
        items = ", ".join([spelled(item, names) for item in value])
        return f"({items},)" if len(value) == 1 else f"({items})"
    if isinstance(value, list):
        return f"[{', '.join([spelled(item, names) for item in value])}]"
    if isinstance(value, dict):
        return f"{{{', '.join([f'{key!r}: {spelled(item, names)}' for key, item in value.items()])}}}"
    if isinstance(value, slice):
        parts = ("" if part is None else spelled(part, names) for part in (value.start, value.stop, value.step))
        return f"slice({', '.join(part or 'None' for part in parts)})"
    return str(value)


def spelled_value(value: Any, symbols: Symbols) -> str:
    """Return what a value is, e.g. ``f32[2, 8, 64]``, with strides where it is not contiguous; of several, joined by a comma."""
    if isinstance(value, torch.Tensor):
        shape = tuple([symbols.size(size) for size in value.shape])
        strides = tuple([symbols.size(stride) for stride in value.stride()]) if value.layout is torch.strided else None
        return _spelled_tensor(value.dtype, shape, strides, value.layout)
    if isinstance(value, torch.SymInt):
        return str(symbols.size(value))
    if isinstance(value, tuple | list):
        return ", ".join([spelled_value(item, symbols) for item in value])
    return "" if value is None else type(value).__name__


class Symbols:
    """Local names of dynamic sizes: ``s0``, ``s1`` in the order in which they are met. Asking for them adds no guard."""

    def __init__(self) -> None:
        self._local: dict[sympy.Basic, sympy.Symbol] = {}

    def size(self, size: Any) -> Any:
        """Return a size as a number, or as an expression of local names."""
        if type(size) is int:
            return size
        expression = size.node.expr if isinstance(size, torch.SymInt) else sympy.sympify(size)
        for symbol in sorted(expression.free_symbols - self._local.keys(), key=str):
            self._local[symbol] = sympy.Symbol(f"{str(symbol)[0]}{len(self._local)}", **symbol.assumptions0)
        return expression.xreplace(self._local)


@functools.lru_cache(maxsize=4096)  # a model has few shapes and many values
def _spelled_tensor(dtype: torch.dtype, shape: tuple[Any, ...], strides: tuple[Any, ...] | None, layout: torch.layout) -> str:
    text = f"{_SHORT_DTYPES.get(dtype) or str(dtype).removeprefix('torch.')}[{', '.join(map(str, shape))}]"
    if strides is None:
        return f"{text} {str(layout).removeprefix('torch.')}"
    return text if _is_contiguous(shape, strides) else f"{text} strides [{', '.join(map(str, strides))}]"


def _is_contiguous(shape: tuple[Any, ...], strides: tuple[Any, ...]) -> bool:
    """By comparing expressions: to ask a symbolic tensor would add a guard to the graph."""
    expected: Any = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size == 1:
            continue  # its stride is never used
        if stride != expected:
            return False
        expected = expected * size
    return True


def _as_operator(function: Any, values: tuple[Any, ...], args: list[str], names: Names) -> str | None:
    if function is operator.getitem:
        return f"{args[0]}[{_index(values[1], names)}]"
    if function is operator.setitem:
        return f"{args[0]}[{_index(values[1], names)}] = {args[2]}"
    if function is getattr and len(values) == 2:
        return f"{args[0]}.{values[1]}"
    try:
        sign = _BINARY.get(function) or _IN_PLACE.get(function)
    except TypeError:  # not every callable can be hashed
        return None
    if sign is not None and len(args) == 2:
        return f"{_operand(args[0])} {sign} {args[1]}"
    sign = _UNARY.get(function)
    return f"{sign}{args[0]}" if sign is not None and len(args) == 1 else None


def _operand(text: str) -> str:
    return f"({text})" if text.startswith("-") else text


def _index(value: Any, names: Names) -> str:
    if type(value) is tuple and value:
        items = ", ".join([_index(item, names) for item in value])
        return f"{items}," if len(value) == 1 else items
    if isinstance(value, slice):
        start, stop, step = ("" if part is None else spelled(part, names) for part in (value.start, value.stop, value.step))
        return f"{start}:{stop}:{step}" if step else f"{start}:{stop}"
    return spelled(value, names)


def function_name(function: Callable[..., Any]) -> str:
    """Return how a function of torch is called by those who use it, and the qualified name of any other."""
    if isinstance(function, _Packet | _Overload):
        return f"torch.ops.{function}"
    name = getattr(function, "__name__", type(function).__name__)
    if getattr(torch, name, None) is function:
        return f"torch.{name}"
    return _public_name(name, getattr(function, "__module__", None) or "")


@functools.cache
def _public_name(name: str, module: str) -> str:
    if module == "torch.nn.functional" or (module == "torch._C._nn" and hasattr(F, name)):
        return f"F.{name}"
    if module.startswith("torch._C._"):  # e.g. linalg_solve_triangular of torch._C._linalg
        family = module.rpartition("_")[2]
        return f"torch.{family}.{name.removeprefix(f'{family}_')}"
    if module in ("_operator", "builtins", ""):
        return name
    return f"{module}.{name}"
