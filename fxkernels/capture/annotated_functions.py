"""Calls of annotated functions during symbolic tracing: found wherever the function is called from, recorded as one node each."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

from torch import fx, nn

from ..annotate import annotated_forward, layer_name_of

Record = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class AnnotatedFunction:
    """A function that the `kernels` package has turned into a module, as a node's target: torch.fx wants targets that have a name.

    Args:
        module: The module that stands in a global variable in place of the function.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        function = wrapped_function(module)
        self.__name__ = str(getattr(function, "__name__", layer_name_of(module)))
        self.__qualname__ = str(getattr(function, "__qualname__", self.__name__))
        self.__module__ = str(getattr(function, "__module__", type(module).__module__))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnnotatedFunction) and other.module is self.module

    def __hash__(self) -> int:
        return id(self.module)

    def __deepcopy__(self, memo: dict[int, Any]) -> AnnotatedFunction:
        return self

    def __reduce__(self) -> Any:
        return _import_function, self._variable()

    def _variable(self) -> tuple[str, str]:
        """Module and name of the global variable that holds the function, first where it was defined."""
        for holder in (sys.modules.get(self.__module__), *_python_modules()):
            for name, value in list(vars(holder).items()) if holder is not None else ():
                if value is self.module:
                    return str(getattr(holder, "__name__", "")), name
        raise pickle.PicklingError(
            f"the annotated function {self.__qualname__} is in no importable module's globals, so it cannot be pickled"
        )


@contextmanager
def functions_recorded(record: Record, modules: Iterable[nn.Module]) -> Iterator[dict[Callable[..., Any], FunctionType]]:
    """Have calls of annotated functions handed to `record` if a traced value is among the arguments; other calls go on as always.

    Functions are exchanged where they can be reached by name: in the globals of every imported module and of the traced modules' own code,
    and in the attributes of the traced modules. All of it is put back at the end, also after an error. Yields what stands for which
    function.

    Args:
        record: Called with the function, the arguments and the keyword arguments; its result is that of the call.
        modules: The modules to be traced. Their attributes are exchanged, so they belong to a clone.
    """
    stand_ins: dict[FunctionType, Callable[..., Any]] = {}
    exchanged: list[tuple[dict[str, Any], str, FunctionType]] = []
    try:
        for names in _namespaces(modules):
            for name, value in list(names.items()):
                if type(value) is FunctionType and annotated_forward(value) is not None:
                    stand_in = stand_ins.get(value) or stand_ins.setdefault(value, _recording(value, record))
                    names[name] = stand_in
                    exchanged.append((names, name, value))
        yield {stand_in: function for function, stand_in in stand_ins.items()}
    finally:
        for names, name, function in reversed(exchanged):
            if names.get(name) is stand_ins[function]:
                names[name] = function


def holds_proxy(value: Any) -> bool:
    """Whether a traced value is in `value`, or in a container there."""
    if isinstance(value, fx.Proxy):
        return True
    if isinstance(value, dict):
        return any(map(holds_proxy, value.values()))
    return isinstance(value, tuple | list) and any(map(holds_proxy, value))


def _recording(function: FunctionType, record: Record) -> Callable[..., Any]:
    def stand_in(*args: Any, **kwargs: Any) -> Any:
        if holds_proxy(args) or holds_proxy(kwargs):
            return record(function, args, kwargs)
        return function(*args, **kwargs)

    stand_in.__name__, stand_in.__qualname__, stand_in.__module__ = function.__name__, function.__qualname__, function.__module__
    return stand_in


def _namespaces(modules: Iterable[nn.Module]) -> Iterator[dict[str, Any]]:
    seen: set[int] = set()
    for holder in _python_modules():
        seen.add(id(vars(holder)))
        yield vars(holder)
    for module in modules:
        yield vars(module)
        names = getattr(getattr(type(module), "forward", None), "__globals__", None)
        if names is not None and id(names) not in seen:
            seen.add(id(names))
            yield names


def _python_modules() -> list[ModuleType]:
    return [module for module in list(sys.modules.values()) if isinstance(module, ModuleType)]


def wrapped_function(module: nn.Module) -> FunctionType | None:
    """Return the plain function inside a function module of the `kernels` package (seen with 0.17): a free variable of its forward."""
    for cell in getattr(type(module).forward, "__closure__", None) or ():
        if isinstance(cell.cell_contents, FunctionType):
            return cell.cell_contents
    return None


def _import_function(module: str, name: str) -> AnnotatedFunction:
    return AnnotatedFunction(getattr(importlib.import_module(module), name))
