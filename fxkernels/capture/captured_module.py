"""The graph module that symbolic capture gives: a graph over the modules of a clone."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from .rewritten_layer import KernelChoice, rewritten_layer

_GRAPH = "_graph"
_VIEWS = "_fxkernels_views"

KEEPER = "_fxkernels_keeper"
"""Attribute of a kernelized graph module that holds who decides its calls, and so has its report."""


_OPERATORS = (type(torch.ops.aten.add), type(torch.ops.aten.add.Tensor))  # torch has no public name for these types


@dataclass(frozen=True, slots=True)
class View:
    """A second object over the state of one submodule, for a call that is decided otherwise than the submodule's other calls.

    Args:
        path: Path of the submodule.
        choice: What the call runs.
    """

    path: str
    choice: KernelChoice


class CapturedModule(fx.GraphModule):
    """A graph module that has the submodules, parameters, buffers, hooks and attributes of the module that was traced, object for object.

    A plain `fx.GraphModule` has the called submodules only, registers tensor attributes as buffers (new state-dict keys), and forgets on
    copying which buffers are not persistent.
    """

    @classmethod
    def over(cls, root: nn.Module, graph: fx.Graph) -> CapturedModule:
        """Return the graph over `root`, whose state it takes over."""
        module = cls(root, graph, type(root).__name__)
        state = vars(module)
        of_every_module = vars(nn.Module())
        for name, value in vars(root).items():
            if name in of_every_module or name not in state:
                state[name] = value
        state[_VIEWS] = {}
        return module

    @property
    def report(self) -> Any:
        """What became of each layer call."""
        if KEEPER not in vars(self):
            raise AttributeError(f"this {type(self).__name__} is not kernelized, so it has no report")
        return vars(self)[KEEPER].report

    def add_view(self, name: str, view: View) -> str:
        """Make a view callable by a `call_module` node and return its target. It is no submodule: it adds no state-dict keys."""
        target, number = name, 0
        while hasattr(self, target):
            number += 1
            target = f"{name}_{number}"
        vars(self)[_VIEWS][target] = view
        self._attach(target, view)
        return target

    def _attach(self, target: str, view: View) -> None:
        vars(self)[target] = rewritten_layer(self.get_submodule(view.path), view.choice, view.path)

    def _state(self) -> dict[str, Any]:
        views = vars(self)[_VIEWS]
        return {name: value for name, value in vars(self).items() if name != _GRAPH and name not in views}

    def __copy__(self) -> CapturedModule:
        graph = fx.Graph(tracer_cls=self._graph._tracer_cls)
        graph.output(graph.graph_copy(self._graph, {}))
        return _filled(_empty(), type(self).__name__, self._state(), graph)

    def __deepcopy__(self, memo: dict[int, Any]) -> CapturedModule:
        memo[id(self)] = module = _empty()
        return _filled(module, type(self).__name__, copy.deepcopy(self._state(), memo), copy.deepcopy(self._graph, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (type(self).__name__, self._state(), _encoded(self._graph))


def _empty() -> CapturedModule:
    module: CapturedModule = CapturedModule.__new__(CapturedModule)
    return module


def _filled(module: CapturedModule, name: str, state: dict[str, Any], graph: fx.Graph) -> CapturedModule:
    type(module).__name__ = name  # torch.fx gives each graph module a class of its own
    vars(module).update(state)
    module.graph = graph
    for target, view in state[_VIEWS].items():
        module._attach(target, view)
    return module


# --- pickling: torch.fx would trace the generated code again, and lose names and annotated functions --------------------------------------


@dataclass(frozen=True, slots=True)
class _Reference:
    """A node as an argument of another one."""

    name: str


@dataclass(frozen=True, slots=True)
class _Operator:
    """An operator of `torch.ops` by name; the objects themselves cannot be pickled (torch 2.13)."""

    name: str


def _encoded(graph: fx.Graph) -> list[tuple[Any, ...]]:
    def encode(value: Any) -> Any:
        return _Reference(value.name) if isinstance(value, fx.Node) else _encoded_target(value)

    return [
        (node.op, node.name, _encoded_target(node.target), _map_leaves(node.args, encode), _map_leaves(node.kwargs, encode), node.type)
        for node in graph.nodes
    ]


def _encoded_target(target: Any) -> Any:
    return _Operator(str(target)) if isinstance(target, _OPERATORS) else target


def _decoded(nodes: list[tuple[Any, ...]]) -> fx.Graph:
    graph = fx.Graph()
    by_name: dict[str, fx.Node] = {}

    def decode(value: Any) -> Any:
        if isinstance(value, _Reference):
            return by_name[value.name]
        return operator.attrgetter(value.name)(torch.ops) if isinstance(value, _Operator) else value

    for op, name, target, args, kwargs, type_expr in nodes:
        by_name[name] = graph.create_node(
            op, decode(target), _map_leaves(args, decode), _map_leaves(kwargs, decode), name=name, type_expr=type_expr
        )
    return graph


def _map_leaves(value: Any, function: Callable[[Any], Any]) -> Any:
    """The arguments of a node with something else in the place of each value that is no container."""
    if isinstance(value, tuple):
        items = [_map_leaves(item, function) for item in value]
        return value._make(items) if hasattr(value, "_make") else tuple(items)
    if isinstance(value, list):
        return [_map_leaves(item, function) for item in value]
    if isinstance(value, dict):
        return {key: _map_leaves(item, function) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(_map_leaves(item, function) for item in (value.start, value.stop, value.step)))
    return function(value)


def _unpickle(name: str, state: dict[str, Any], nodes: list[tuple[Any, ...]]) -> CapturedModule:
    return _filled(_empty(), name, state, _decoded(nodes))
