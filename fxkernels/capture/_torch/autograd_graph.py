"""The autograd graph behind the outputs of a function: described, and run with other tensors than those it was made with."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, get_gradient_edge


class Indescribable(Exception):
    """A graph holds something that may be a tensor, or depend on one, and that it does not hand out: the message says what."""


class SavedTensors:
    """The tensors that a graph saves, outside of it. Used as hooks of `torch.autograd.graph.saved_tensors_hooks`."""

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []

    def pack(self, tensor: torch.Tensor) -> int:
        """Keep the tensor; the graph keeps its number."""
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def unpack(self, number: int) -> torch.Tensor:
        """Return the tensor of this number, or the one that has been put in its place."""
        return self.tensors[number]


@dataclass(slots=True)
class _Step:
    """One node: what is called, with how many gradients, and where its results go (position in the result, step, input of that step)."""

    node: Any
    is_python: bool
    metadata: tuple[Any, ...]
    routes: tuple[tuple[int, int, int], ...]


class Tape:
    """The autograd graph from leaves to outputs. It can run again and again, since nothing of it is released.

    A graph of autograd functions in Python runs node by node, in the calling thread and on the current stream, also while a CUDA graph is
    being captured. Hooks on tensors inside are not called then. Other graphs run in the autograd engine: a node in C++ that is called
    while the engine runs another graph returns only what that one asked for (torch 2.11, 2.13).

    Args:
        outputs: What the function returned; those without a gradient have none here.
        leaves: The tensors whose gradients are wanted.
    """

    def __init__(self, outputs: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor]) -> None:
        self._edges = [_edge(output) if output.requires_grad else None for output in outputs]
        nodes = _in_order([edge.node for edge in self._edges if edge is not None])
        self._places = {node: place for place, node in enumerate(nodes)}
        self._steps = [_step(node, self._places) for node in nodes]
        self._roots = [None if edge is None else (self._places[edge.node], edge.output_nr) for edge in self._edges]
        self._tensors: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]] | None = (outputs, leaves)
        self._wanted: list[GradientEdge] = []

    def let_go(self) -> None:
        """Let go of outputs and leaves, which may change now, and keep what is behind them."""
        if self._tensors is None:
            return
        outputs, leaves = self._tensors
        with recording_autograd():
            # A node in Python does not keep its graph alive; the edge that torch makes does (torch 2.11).
            self._edges = [get_gradient_edge(output) if output.requires_grad else None for output in outputs]
            self._wanted = [get_gradient_edge(leaf) for leaf in leaves]
        self._tensors = None

    def is_cut(self) -> bool:
        """Whether a node in it is that of an operator without a derivative: a gradient ends there."""
        return any(step.node.name().endswith("NotImplemented") for step in self._steps)

    def signature(self, saved: SavedTensors) -> Hashable:
        """Return a value that is equal for two graphs that compute the same function of the tensors that they save.

        Args:
            saved: Where the graph's saved tensors are.

        Raises:
            Indescribable: If that cannot be decided.
        """
        known = {id(tensor) for tensor in saved.tensors}
        return tuple((type(step.node), step.routes, _constants(step, known)) for step in self._steps), tuple(self._roots)

    def backward(self, gradients: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Return the gradient of each leaf, None where there is none.

        Args:
            gradients: One per output; None for zero.
        """
        self.let_go()
        if all(step.is_python or not step.routes for step in self._steps):
            return self._step_by_step(gradients)
        return self._in_engine(gradients)

    def _in_engine(self, gradients: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        pairs = [(edge, g) for edge, g in zip(self._edges, gradients, strict=True) if edge is not None and g is not None]
        edges, given = [edge for edge, _ in pairs], [gradient for _, gradient in pairs]
        if not edges:
            return [None] * len(self._wanted)
        return list(torch.autograd.grad(edges, self._wanted, given, retain_graph=True, allow_unused=True))

    def _step_by_step(self, gradients: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        pending: list[list[Any]] = [[None] * len(step.metadata) for step in self._steps]
        for root, gradient in zip(self._roots, gradients, strict=True):
            if root is not None and gradient is not None:
                _add(pending[root[0]], root[1], _fitted(gradient, self._steps[root[0]].metadata[root[1]]))
        for place, step in enumerate(self._steps):
            given = pending[place]
            if not step.routes or all(gradient is None for gradient in given):
                continue
            results = _call(step, given)
            for position, target, number in step.routes:
                result = results[position]
                if result is not None:
                    _add(pending[target], number, _fitted(result, self._steps[target].metadata[number]))
        leaves = [self._places.get(edge.node) for edge in self._wanted]
        return [None if place is None else pending[place][0] for place in leaves]


@contextmanager
def recording_autograd() -> Iterator[None]:
    """A context in which autograd records, also inside of an operator's implementation.

    Below a dispatch mode (AOTAutograd has one around the first run of a graph, to check its operators) autograd has been left behind, and
    grad mode alone does not bring it back (torch 2.11, 2.13).
    """
    excluded = torch._C._dispatch_tls_local_exclude_set()
    if not any(excluded.has(key) for key in _AUTOGRAD):
        with torch.enable_grad():
            yield
        return
    for key in _AUTOGRAD:
        excluded = excluded.remove(key)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded), torch.enable_grad():
        yield


_AUTOGRAD = tuple(
    getattr(torch._C.DispatchKey, name)
    for name in (
        "ADInplaceOrView",
        *(f"Autograd{kind}" for kind in ("Other", "CPU", "CUDA", "XPU", "MPS", "PrivateUse1")),
        "AutogradFunctionality",
    )
    if hasattr(torch._C.DispatchKey, name)
)


def _edge(tensor: torch.Tensor) -> GradientEdge:
    if tensor.grad_fn is None:
        return get_gradient_edge(tensor)
    return GradientEdge(tensor.grad_fn, tensor.output_nr)  # the same while the tensor lives, and ten times as fast


def _in_order(roots: list[Any]) -> list[Any]:
    """The nodes, each before those that its results go to."""
    finished: dict[Any, None] = {}
    for root in roots:
        pending = [(root, False)]
        while pending:
            node, done = pending.pop()
            if done:
                finished[node] = None
            elif node not in finished:
                pending.append((node, True))
                following = [found for found, _ in node.next_functions if found is not None]
                pending += [(found, False) for found in following if found not in finished]
    return list(reversed(finished))


def _step(node: Any, places: dict[Any, int]) -> _Step:
    edges = [(places[following], number) if following is not None else None for following, number in node.next_functions]
    is_python = isinstance(node, BackwardCFunction)
    # A Python node returns one result per argument of its forward, and has one edge per argument that is a tensor.
    positions = [place for place, needed in enumerate(node.needs_input_grad) if needed] if is_python else None
    routes = [(place, *edge) for place, edge in enumerate(edges) if edge is not None]
    if positions is not None:
        routes = [(position, *rest) for position, (_, *rest) in zip(positions, routes, strict=True)]
    return _Step(node, is_python, tuple(node._input_metadata), tuple(routes))


def _call(step: _Step, given: list[Any]) -> Any:
    given = [_zeros(metadata) if gradient is None else gradient for gradient, metadata in zip(given, step.metadata, strict=True)]
    results = step.node.apply(*given)
    return results if isinstance(results, tuple) else (results,)


def _zeros(metadata: Any) -> torch.Tensor:
    return torch.zeros(tuple(metadata.shape), dtype=metadata.dtype, device=metadata.device)


def _fitted(gradient: torch.Tensor, metadata: Any) -> torch.Tensor:
    """The gradient as the engine hands it on: in the shape and dtype of the value that it belongs to."""
    if gradient.dtype is not metadata.dtype:
        gradient = gradient.to(metadata.dtype)
    return gradient if gradient.shape == metadata.shape else gradient.sum_to_size(tuple(metadata.shape))


def _add(into: list[Any], number: int, gradient: torch.Tensor) -> None:
    into[number] = gradient if into[number] is None else into[number] + gradient


# --- what a node holds besides tensors that it saves --------------------------------------------------------------------------------------


def _constants(step: _Step, known: set[int]) -> Hashable:
    if step.is_python:
        return tuple((name, _constant(f"ctx.{name}", value)) for name, value in vars(step.node).items())
    name = step.node.name()
    if "CppNode" in name:
        raise Indescribable(f"{name} is an autograd function in C++, which keeps its state to itself")
    return tuple((name, _saved(step.node, name, known)) for name in _saved_names(type(step.node)))  # type: ignore[arg-type]  # a type can be hashed


@functools.cache
def _saved_names(kind: type) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith("_saved_"))


def _saved(node: Any, name: str, known: set[int]) -> Hashable:
    """What the node has saved under this name. A number is saved as a tensor that no hook sees."""
    value = getattr(node, name)
    if isinstance(value, tuple) and any(isinstance(item, torch.Tensor) for item in value):
        return len(value)
    if not isinstance(value, torch.Tensor):
        return _constant(name, value)
    if value.dim() == 0 and id(value) not in known and value.device.type == "cpu":
        return repr(value.item())
    return "tensor"


_BY_VALUE = (bool, int, str, torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, type(None), type(...))


def _constant(name: str, value: Any) -> Hashable:
    if isinstance(value, float | complex):
        return repr(value)
    if isinstance(value, _BY_VALUE):
        return (type(value), value)
    if isinstance(value, tuple | list):
        return (type(value), *[_constant(name, item) for item in value])
    if isinstance(value, dict):
        return (dict, *[(key, _constant(name, item)) for key, item in value.items()])
    if isinstance(value, type | ModuleType | BuiltinFunctionType) or (isinstance(value, FunctionType) and value.__closure__ is None):
        return id(value)
    raise Indescribable(f"{name} is a {type(value).__name__}")
