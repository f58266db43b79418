"""What a kernel layer's forward does with its ``self``: the attributes that it reads and those that it writes."""

from __future__ import annotations

import ast
import dis
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from .layer import KernelLayer

UNKNOWN = "*"
"""Stands for an attribute whose name is computed, as in ``setattr(self, name, value)``."""


def attributes_read(kernel: KernelLayer) -> frozenset[str]:
    """Return the attributes of ``self`` that the forward reads, first level only: ``self.gate_proj.weight`` reads ``gate_proj``.

    A name with a default, ``getattr(self, "eps", 1e-6)``, is not demanded and not listed. What is read by functions to which ``self`` is
    handed as a whole is not seen.
    """
    return _use_of_self(kernel.cls).read


def writes_self(kernel: KernelLayer) -> frozenset[str]:
    """Return the attributes of ``self`` that the forward assigns or deletes, `UNKNOWN` for one whose name is computed."""
    return _use_of_self(kernel.cls).written


@dataclass(frozen=True, slots=True)
class _Use:
    read: frozenset[str] = frozenset()
    written: frozenset[str] = frozenset()


_USES: WeakKeyDictionary[type, _Use] = WeakKeyDictionary()


def _use_of_self(cls: type[nn.Module]) -> _Use:
    use = _USES.get(cls)
    if use is None:
        use = _USES[cls] = _look(cls.forward)
    return use


def _look(forward: Callable[..., Any]) -> _Use:
    function = inspect.unwrap(forward)
    code: CodeType | None = getattr(function, "__code__", None)
    if code is None or not code.co_varnames[: code.co_argcount]:
        return _Use()  # no function of the class, so it is not handed a self by name
    own_name = code.co_varnames[0]
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # no source, or one that is no statement by itself
        return _from_instructions(code, own_name)
    definition = next((node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == code.co_name), None)
    if definition is None:
        return _from_instructions(code, own_name)
    visitor = _SelfVisitor(own_name)
    for statement in definition.body:
        visitor.visit(statement)
    return _Use(frozenset(visitor.read), frozenset(visitor.written))


@dataclass
class _SelfVisitor(ast.NodeVisitor):
    own_name: str
    read: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)

    def _is_self(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id == self.own_name

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if self._is_self(node.value):
            (self.read if isinstance(node.ctx, ast.Load) else self.written).add(node.attr)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Attribute) and self._is_self(node.target.value):
            self.read.add(node.target.attr)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and len(node.args) >= 2 and self._is_self(node.args[0]):
            name = str(node.args[1].value) if isinstance(node.args[1], ast.Constant) else UNKNOWN
            if node.func.id == "getattr" and len(node.args) == 2 and name != UNKNOWN:
                self.read.add(name)
            elif node.func.id in ("setattr", "delattr"):
                self.written.add(name)
        self.generic_visit(node)

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
    written: set[str] = set()
    for inner in _codes(code, own_name):
        # How Python 3.11 to 3.14 load a variable: LOAD_FAST, LOAD_FAST_BORROW, LOAD_FAST_LOAD_FAST (the second one is on top), LOAD_DEREF.
        previous = copied = False
        for step in dis.get_instructions(inner):
            if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and previous:
                read.add(step.argval)
                if copied:  # self.x += 1 loads self once, copies it and stores by the copy
                    written.add(step.argval)
            elif step.opname in ("STORE_ATTR", "DELETE_ATTR") and previous:
                written.add(step.argval)
            copied = step.opname == "COPY" and previous
            previous = copied or (step.opname.startswith(("LOAD_FAST", "LOAD_DEREF")) and _top(step.argval) == own_name)
    return _Use(frozenset(read), frozenset(written))


def _top(value: Any) -> Any:
    return value[-1] if isinstance(value, tuple) else value


def _codes(code: CodeType, own_name: str) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and own_name in constant.co_freevars:
            yield from _codes(constant, own_name)
