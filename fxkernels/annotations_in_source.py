"""Layer names that are in the source only: those of the decorators of transformers, and of the `kernels` package, that did nothing.

transformers marks its layers only where it finds a version of `kernels` that it supports (5.23 and 5.24: one that the package index does
not have); elsewhere its decorators hand back what they get. A module that imports from `kernels` and makes do without it has decorators of
its own that do the same. What they would have said is read from the module's syntax tree, once; its classes and functions stay as they are.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

_log = logging.getLogger("fxkernels")

_WRAPPERS = {"use_kernel_forward_from_hub": 0, "use_kernel_func_from_hub": 0, "use_kernel_func_from_hub_with_fallback": 1}
"""The decorators that give a layer name, and into how many functions of their own they wrap what they decorate."""

_LIBRARIES = ("transformers.integrations", "kernels")
"""Where those decorators are imported from: these modules, and what is inside them."""

_HOME = "transformers.integrations.hub_kernels"
"""The module in which transformers has its decorators."""

_ON_THE_WAY = {"transformers", "transformers.integrations", _HOME}
"""Modules by whose attributes they can be reached."""


@dataclass(frozen=True, slots=True)
class SourceAnnotation:
    """A layer name that was read from a decorator.

    Args:
        layer_name: The name.
        location: ``file:line`` of the decorator.
    """

    layer_name: str
    location: str


@dataclass(frozen=True, slots=True)
class _Definition:
    """One definition of a qualified name; there are several where it depends on a condition which of them is made.

    Args:
        lines: The lines of the source that it takes, with its decorators.
        annotation: What its decorators say.
        wrappers: For a function: how many wrappers are between it and the one that is annotated.
    """

    lines: range
    annotation: SourceAnnotation | None
    wrappers: int = 0


Definitions = Mapping[str, tuple[_Definition, ...]]
"""The definitions of every qualified name of a module that one of these decorators stands at."""

_NONE: Definitions = {}
_known: dict[str, tuple[object, Definitions]] = {}


def source_annotation(target: type | FunctionType) -> SourceAnnotation | None:
    """Return the annotation that the source of this very class or function has, and the object has not; None if there is none.

    A base class's is not a class's own. A wrapper made with `functools.wraps` is not the function that it wraps.
    """
    definitions = _definitions_of(target.__module__)
    return annotation_among(definitions, target) if definitions else None


def annotation_among(definitions: Definitions, target: type | FunctionType) -> SourceAnnotation | None:
    """Return the annotation of a class or function among the definitions of its module."""
    found = definitions.get(target.__qualname__)
    if found is None:
        return None
    names = vars(sys.modules[target.__module__])
    return _of_class(found, target, names) if isinstance(target, type) else _of_function(found, target, names)


def definitions_in(module: ModuleType, *, silent_only: bool = True) -> Definitions:
    """Return what is annotated in the source of a module.

    Args:
        module: The module.
        silent_only: Leave out the decorators that have marked what they decorate.
    """
    tree = _syntax_tree(module)
    return _NONE if tree is None else _Reading(module, tree, silent_only).definitions()


def _definitions_of(name: str) -> Definitions:
    module = sys.modules.get(name)
    if not isinstance(module, ModuleType):
        return _NONE
    spec, definitions = _known.get(name, (_known, _NONE))
    if spec is not module.__spec__:  # seen for the first time, or reloaded
        definitions = definitions_in(module) if _may_have_silent_decorators(vars(module)) else _NONE
        _known[name] = module.__spec__, definitions
    return definitions


# --- which class or function is it ------------------------------------------------------------------------------------------------------


def _of_class(found: tuple[_Definition, ...], cls: type, names: dict[str, Any]) -> SourceAnnotation | None:
    functions = [inspect.unwrap(value) for value in vars(cls).values() if isinstance(value, FunctionType)]
    own = [each for each in functions if _is_written_in(each, names) and each.__code__.co_qualname.startswith(f"{cls.__qualname__}.")]
    if functions and not own:
        return None  # a subclass that was made at run time under the same name
    return _chosen(found, [each.__code__.co_firstlineno for each in own])


def _of_function(found: tuple[_Definition, ...], function: FunctionType, names: dict[str, Any]) -> SourceAnnotation | None:
    inner, wrappers = function, 0
    while isinstance(wrapped := vars(inner).get("__wrapped__"), FunctionType) and wrappers <= max(each.wrappers for each in found):
        inner, wrappers = wrapped, wrappers + 1
    if not _is_written_in(inner, names) or inner.__code__.co_qualname != function.__qualname__:
        return None
    fitting = tuple(each for each in found if each.wrappers == wrappers or each.annotation is None)
    return _chosen(fitting, [inner.__code__.co_firstlineno])


def _is_written_in(function: object, names: dict[str, Any]) -> bool:
    return isinstance(function, FunctionType) and function.__globals__ is names


def _chosen(found: tuple[_Definition, ...], lines: list[int]) -> SourceAnnotation | None:
    if len(found) > 1:
        found = tuple(each for each in found if any(line in each.lines for line in lines))
    return found[0].annotation if found else None


# --- which decorators do nothing --------------------------------------------------------------------------------------------------------


def _may_have_silent_decorators(names: dict[str, Any]) -> bool:
    """Whether the source may say more than the objects: a look at the globals of every module that is met, which costs no reading.

    A decorator that a module makes itself, where an import has failed, is known by its name only.
    """
    for name, value in list(names.items()):
        if name in _WRAPPERS or (type(value) is FunctionType and value.__name__ in _WRAPPERS):
            if _does_nothing(value):
                return True
        # Not isinstance: it asks the value for its class, and some objects among the globals of torch warn when they are asked.
        elif issubclass(type(value), ModuleType) and value.__name__ in _ON_THE_WAY and _transformers_marks_nothing():
            return True
    return False


def _does_nothing(decorator: object) -> bool:
    """Whether one of these decorators, as a module has it, leaves alone what it decorates."""
    home = str(getattr(decorator, "__module__", ""))
    if home.startswith(_LIBRARIES[0]):
        return _transformers_marks_nothing()
    return home.partition(".")[0] not in ("kernels", "fxkernels")  # else a substitute for an import that failed


def _transformers_marks_nothing() -> bool:
    return _HOME in sys.modules and _marks_nothing(sys.modules[_HOME])


@functools.cache
def _marks_nothing(home: Any) -> bool:
    """Whether the decorators of transformers do nothing, tried on a class: their module decided that when it was imported."""
    tried = type("Tried", (), {"forward": lambda self: None})
    return "kernel_layer_name" not in vars(home.use_kernel_forward_from_hub("Tried")(tried))


# --- the syntax tree --------------------------------------------------------------------------------------------------------------------

_Definable = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class _Reading:
    def __init__(self, module: ModuleType, tree: ast.Module, silent_only: bool) -> None:
        self._module, self._tree, self._silent_only = module, tree, silent_only
        self._imported = dict(_imported(tree, module.__package__ or ""))

    def definitions(self) -> Definitions:
        found: dict[str, list[_Definition]] = {}
        for name, node in _defined(self._tree):
            found.setdefault(name, []).append(self._definition(node))
        return {name: tuple(each) for name, each in found.items() if any(definition.annotation for definition in each)}

    def _definition(self, node: _Definable) -> _Definition:
        first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
        lines = range(first, (node.end_lineno or node.lineno) + 1)
        for number, call in enumerate(node.decorator_list):
            wrappers = self._wrappers(call)
            if wrappers is not None and isinstance(call, ast.Call):
                others = [each for each in node.decorator_list[number + 1 :] if self._wrappers(each) is None]
                return _Definition(lines, self._annotation(call), wrappers + len(others))
        return _Definition(lines, None)

    def _wrappers(self, node: ast.expr) -> int | None:
        """Into how many functions the decorator wraps what it decorates; None if it is none of these, or has marked what it decorates."""
        words = _dotted(node.func) if isinstance(node, ast.Call) else None
        if words is None or words[0] not in self._imported:
            return None
        home, _, name = ".".join((self._imported[words[0]], *words[1:])).rpartition(".")
        if name not in _WRAPPERS or not any(f"{home}.".startswith(f"{library}.") for library in _LIBRARIES):
            return None
        value = vars(self._module).get(words[0], getattr(sys.modules.get(home), name, None))  # a module may have deleted it since
        for word in words[1:]:
            value = getattr(value, word, value)
        if self._silent_only and not _does_nothing(value):
            return None
        return _WRAPPERS[name] if str(getattr(value, "__module__", "")).startswith(_LIBRARIES) else 0

    def _annotation(self, call: ast.Call) -> SourceAnnotation | None:
        location = f"{self._module.__file__}:{call.lineno}"
        keywords = {each.arg: each.value for each in call.keywords}
        name = call.args[0] if call.args else keywords.get("layer_name", keywords.get("func_name"))
        if "condition" in keywords or not isinstance(name, ast.Constant) or not isinstance(name.value, str):
            what = "condition" if "condition" in keywords else "layer name"
            _log.warning("the %s at %s cannot be read from the source, so nothing is annotated there; %s", what, location, _INSTEAD)
            return None
        return SourceAnnotation(name.value, location)


_INSTEAD = "use_kernel_forward_from_hub and replace_kernel_forward_from_hub of fxkernels always annotate"


def _defined(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, _Definable]]:
    """Every class and function in a tree, with its qualified name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Definable):
            name = f"{prefix}{child.name}"
            yield name, child
            yield from _defined(child, f"{name}." if isinstance(child, ast.ClassDef) else f"{name}.<locals>.")
        elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _defined(child, prefix)


def _imported(tree: ast.Module, package: str) -> Iterator[tuple[str, str]]:
    """The names that the module imports, and in full what they stand for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname, alias.name) if alias.asname else (head := alias.name.partition(".")[0], head)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            home = importlib.util.resolve_name(relative, package) if package or not node.level else relative
            yield from ((alias.asname or alias.name, f"{home}.{alias.name}") for alias in node.names)


def _dotted(node: ast.expr) -> list[str] | None:
    words: list[str] = []
    while isinstance(node, ast.Attribute):
        words.append(node.attr)
        node = node.value
    return [node.id, *reversed(words)] if isinstance(node, ast.Name) else None


def _syntax_tree(module: ModuleType) -> ast.Module | None:
    """The tree of a module whose source names one of the decorators. Where the source cannot be read, a warning says so."""
    try:
        source = _source(module)
        return ast.parse(source) if any(decorator in source for decorator in _WRAPPERS) else None
    except (ImportError, OSError, SyntaxError) as error:
        if any(name in _WRAPPERS for name in vars(module)):
            _log.warning("the decorators in %s annotate nothing, and they cannot be read: %s; %s", module.__name__, error, _INSTEAD)
        return None


def _source(module: ModuleType) -> str:
    name = module.__spec__.name if module.__spec__ is not None else module.__name__  # `python -m package` runs it as __main__
    loader: Any = module.__loader__
    source: str | None = loader.get_source(name) if hasattr(loader, "get_source") else None
    if source is None:
        raise OSError("its source is not there")
    return source
