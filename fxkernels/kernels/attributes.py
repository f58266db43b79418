"""What a kernel layer's forward does with its ``self``: the attributes that it reads, and where it writes to the layer."""

from __future__ import annotations

import ast
import dis
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from ..byte_code import loaded_variable
from .layer import KernelLayer

UNKNOWN = "*"
"""Stands for an attribute whose name is computed, as in ``setattr(self, name, value)``."""

_DEPTH = 4
"""How far functions are followed to which ``self`` is handed."""


@dataclass(frozen=True, slots=True)
class Write:
    """A place where a forward writes to the layer.

    Args:
        target: What is written, e.g. ``"self.steps"`` or ``"self.weight.data"``.
        where: File and line, e.g. ``"layers.py:41"``.
    """

    target: str
    where: str

    def __str__(self) -> str:
        return f"{self.target} at {self.where}"


def attributes_read(kernel: KernelLayer) -> frozenset[str]:
    """Return the attributes of ``self`` that the forward reads, first level only: ``self.gate_proj.weight`` reads ``gate_proj``.

    A name with a default, ``getattr(self, "eps", 1e-6)``, is not demanded and not listed. Functions to which ``self`` is handed as a whole
    are looked into, methods of other objects are not.
    """
    return _use_of_self(kernel.cls).read


def writes_self(kernel: KernelLayer) -> frozenset[str]:
    """Return the attributes of ``self`` that the forward assigns or deletes, `UNKNOWN` for one whose name is computed."""
    return _use_of_self(kernel.cls).written


def writes_to_layer(kernel: KernelLayer) -> tuple[Write, ...]:
    """Return where the forward writes to the layer, as far as its text tells: to attributes, to what they hold, and to their elements.

    A method that writes in place counts where it is called on an attribute, as in ``self.scale.copy_(x)``, not on another one's result.
    """
    return _use_of_self(kernel.cls).writes


@dataclass(frozen=True, slots=True)
class _Use:
    read: frozenset[str] = frozenset()
    written: frozenset[str] = frozenset()
    writes: tuple[Write, ...] = ()

    def __or__(self, other: _Use) -> _Use:
        return _Use(self.read | other.read, self.written | other.written, tuple(dict.fromkeys((*self.writes, *other.writes))))


_USES: WeakKeyDictionary[type, _Use] = WeakKeyDictionary()


def _use_of_self(cls: type[nn.Module]) -> _Use:
    use = _USES.get(cls)
    if use is None:
        use = _USES[cls] = _look(inspect.unwrap(cls.forward))
    return use


def _look(function: Callable[..., Any], parameter: int | str = 0, depth: int = _DEPTH) -> _Use:
    """What a function does with one of its parameters, the first one or another."""
    code: CodeType | None = getattr(function, "__code__", None)
    own_name = _parameter(code, parameter) if code is not None else None
    if code is None or own_name is None:
        return _Use()  # no function in Python, so it is not handed a self by name
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # no source, or one that is no statement by itself
        return _from_instructions(code, own_name)
    definition = next((node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == code.co_name), None)
    if definition is None:
        return _from_instructions(code, own_name)
    visitor = _SelfVisitor(own_name, code)
    for statement in definition.body:
        visitor.visit(statement)
    use = _Use(frozenset(visitor.read), frozenset(visitor.written), tuple(visitor.writes))
    for called, place in visitor.handed if depth > 1 else ():
        found = _resolved(called, function)
        if found is not None and found is not function:
            use |= _look(inspect.unwrap(found), place, depth - 1)
    return use


def _parameter(code: CodeType, parameter: int | str) -> str | None:
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    if isinstance(parameter, str):
        return parameter if parameter in names else None
    return names[parameter] if parameter < code.co_argcount else None


def _resolved(called: ast.expr, function: Callable[..., Any]) -> FunctionType | None:
    """The function that a name stands for, also one in a module: ``ops.scaled``."""
    if isinstance(called, ast.Name):
        found = getattr(function, "__globals__", {}).get(called.id)
    elif isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
        module = getattr(function, "__globals__", {}).get(called.value.id)
        found = vars(module).get(called.attr) if isinstance(module, ModuleType) else None
    else:
        found = None
    return found if isinstance(found, FunctionType) else None


@dataclass
class _SelfVisitor(ast.NodeVisitor):
    """Goes through a function's body. `handed` are the functions that get ``self`` as a whole, and as which argument."""

    own_name: str
    code: CodeType
    read: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    writes: list[Write] = field(default_factory=list)
    handed: list[tuple[ast.expr, int | str]] = field(default_factory=list)
    aliases: set[str] = field(default_factory=set)

    def _is_self(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and (node.id == self.own_name or node.id in self.aliases)

    def _path(self, node: ast.expr) -> str | None:
        """The attribute that an expression is, or that it is an element of: ``self.weight.data`` for ``self.weight.data[0]``."""
        match node:
            case ast.Subscript(value):
                return self._path(value)
            case ast.Attribute(value, name):
                around = "self" if self._is_self(value) else self._path(value)
                return f"{around}.{name}" if around is not None else None
        return None

    def _writes(self, node: ast.expr, target: str | None) -> None:
        if target is not None:
            line = self.code.co_firstlineno + node.lineno - 1
            self.writes.append(Write(target, f"{Path(self.code.co_filename).name}:{line}"))

    def visit_Assign(self, node: ast.Assign) -> None:
        if self._is_self(node.value):
            self.aliases |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if self._is_self(node.value):
            (self.read if isinstance(node.ctx, ast.Load) else self.written).add(node.attr)
        if not isinstance(node.ctx, ast.Load):
            self._writes(node, self._path(node))
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not isinstance(node.ctx, ast.Load):
            self._writes(node, self._path(node))
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Attribute) and self._is_self(node.target.value):
            self.read.add(node.target.attr)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr", "delattr") and len(node.args) >= 2:
            self._by_name(node, node.func.id)
        elif isinstance(node.func, ast.Attribute) and node.func.attr.endswith("_") and not node.func.attr.endswith("__"):
            self._writes(node, self._path(node.func.value))
        places: list[tuple[int | str | None, ast.expr]] = [*enumerate(node.args), *((word.arg, word.value) for word in node.keywords)]
        self.handed += [(node.func, place) for place, value in places if place is not None and self._is_self(value)]
        self.generic_visit(node)

    def _by_name(self, node: ast.Call, function: str) -> None:
        if not self._is_self(node.args[0]):
            return
        name = str(node.args[1].value) if isinstance(node.args[1], ast.Constant) else UNKNOWN
        if function == "getattr":
            self.read |= {name} if len(node.args) == 2 and name != UNKNOWN else set()
        else:
            self.written.add(name)
            self._writes(node, f"self.{name}")

    def _visit_inner(self, node: ast.FunctionDef | ast.Lambda) -> None:
        arguments = node.args
        names = {argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
        if self.own_name not in names:  # else the name means something else in there
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_inner(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_inner(node)


def _from_instructions(code: CodeType, own_name: str) -> _Use:
    """The same from byte code, for classes that were made without a source file. Names handed to getattr and setattr are not seen."""
    read: set[str] = set()
    writes: dict[str, Write] = {}
    for inner in _codes(code, own_name):
        previous = copied = False
        for step in dis.get_instructions(inner):
            if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and previous:
                read.add(step.argval)
                if copied:  # self.x += 1 loads self once, copies it and stores by the copy
                    writes[step.argval] = _write(step, inner)
            elif step.opname in ("STORE_ATTR", "DELETE_ATTR") and previous:
                writes[step.argval] = _write(step, inner)
            copied = step.opname == "COPY" and previous
            previous = copied or loaded_variable(step) == own_name
    return _Use(frozenset(read), frozenset(writes), tuple(writes.values()))


def _write(step: dis.Instruction, code: CodeType) -> Write:
    line = step.positions.lineno if step.positions is not None else code.co_firstlineno
    return Write(f"self.{step.argval}", f"{Path(code.co_filename).name}:{line}")


def _codes(code: CodeType, own_name: str) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and own_name in constant.co_freevars:
            yield from _codes(constant, own_name)
