"""A case on its way to another process: the kernel by its repository, the reference by its operations, classes by their names.

The other process never imports the user's ``__main__``. A layer's class is rebuilt there without its methods; only if the kernel uses one
is the class's module imported. What cannot be sent is a `CannotBeSent`, and says what it is.
"""

from __future__ import annotations

import importlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate, map_arg

from ..hub import LayerRepository
from ..kernels.stand_in import LayerState, is_constant
from .probe_case import ProbeCase

_OPERATOR = type(torch.ops.aten.add.Tensor)
_PACKET = type(torch.ops.aten.add)


class CannotBeSent(Exception):
    """Something in a case exists in this process only."""


class NeedsClass(BaseException):
    """A kernel uses a method of the layer's class. Not an Exception: no kernel is to catch it."""


@dataclass(frozen=True, slots=True)
class Ref:
    """A value in a sent graph: the number of the operation that computes it."""

    number: int


def to_bytes(case: ProbeCase) -> bytes:
    """Return the case as bytes.

    Raises:
        CannotBeSent: If it holds something that another process could not have.
    """
    own_class = case.state.cls is case.kernel.cls  # a function has no layer: the kernel's class stands for it
    sent = replace(case, kernel=_pinned(case), state=replace(case.state, cls=nn.Module) if own_class else case.state)
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump((sent, own_class))
    except CannotBeSent:
        raise
    except Exception as error:  # what pickle raises depends on what it meets
        raise CannotBeSent(f"{type(error).__name__}: {error}") from error
    return buffer.getvalue()


def from_bytes(data: bytes, *, real_classes: bool = False) -> ProbeCase:
    """Return the case, with the kernel loaded.

    Args:
        data: What `to_bytes` gave.
        real_classes: Whether the layer's classes are imported rather than rebuilt.

    Raises:
        CannotBeSent: If something in it cannot be had in this process.
    """
    global _import_classes
    _import_classes = real_classes
    try:
        case: ProbeCase
        case, own_class = pickle.loads(data)
    except CannotBeSent:
        raise
    except Exception as error:  # import errors of other people's modules among them
        raise CannotBeSent(f"{type(error).__name__}: {error}") from error
    return replace(case, state=replace(case.state, cls=case.kernel.cls)) if own_class else case


def _pinned(case: ProbeCase) -> Any:
    """The kernel layer; one from the Hub at the commit that this process has."""
    kernel = case.kernel
    if kernel.source is None:
        raise CannotBeSent(f"{kernel.identity} says not where it was loaded from")
    repository, target = kernel.source
    commit = kernel.identity.revision
    if isinstance(repository, LayerRepository) and commit is not None and kernel.identity.override is None:
        trust = repository.trust_remote_code
        repository = LayerRepository(repository.repo_id, layer_name=repository.layer_name, revision=commit, trust_remote_code=trust)
    return replace(kernel, source=(repository, target))


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, fx.GraphModule):
            return _graph_module, _steps(value)
        if isinstance(value, LayerState):
            return _layer_state, (_described(value.cls), value.tensors, value.constants, value.children)
        if isinstance(value, _OPERATOR | _PACKET):
            return _operator, (str(value).replace(".", "::", 1),)
        if any(cls.__name__ == "HigherOrderOperator" for cls in type(value).__mro__):
            raise CannotBeSent(f"the layer uses the operator {value}")
        return NotImplemented


def _operator(name: str) -> Any:
    namespace, _, rest = name.partition("::")
    found: Any = getattr(torch.ops, namespace)
    first, _, overload = rest.partition(".")
    packet = getattr(found, first)
    return getattr(packet, overload) if overload else packet


# --- the reference ------------------------------------------------------------------------------------------------------------------------


def _steps(module: fx.GraphModule) -> tuple[Any, ...]:
    numbers: dict[fx.Node, Ref] = {}
    steps: list[tuple[Any, ...]] = []
    constants: dict[str, Any] = {}
    for node in module.graph.nodes:
        target: Any = node.target
        if node.op == "get_attr":
            value: Any = module
            for name in str(target).split("."):
                value = getattr(value, name)
            target = f"constant_{len(constants)}"
            constants[target] = value.detach() if isinstance(value, torch.Tensor) else value
        elif node.op == "call_module":
            raise CannotBeSent(f"the layer's graph calls the module {target}")
        args, kwargs = map_arg((tuple(node.args), dict(node.kwargs)), numbers.__getitem__)  # type: ignore[arg-type]  # fx has no name for what is no node any more
        numbers[node] = Ref(len(steps))
        steps.append((node.op, target, args, kwargs))
    return tuple(steps), constants


def _graph_module(steps: tuple[Any, ...], constants: Mapping[str, Any]) -> fx.GraphModule:
    root, graph = nn.Module(), fx.Graph()
    nodes: list[fx.Node] = []
    for name, value in constants.items():
        setattr(root, name, value)
    for op, target, args, kwargs in steps:
        args, kwargs = map_aggregate((args, kwargs), lambda value: nodes[value.number] if isinstance(value, Ref) else value)
        nodes.append(graph.create_node(op, target, args, kwargs))
    return fx.GraphModule(root, graph)


# --- classes of layers --------------------------------------------------------------------------------------------------------------------

_import_classes = False


def _described(cls: type) -> tuple[Any, ...]:
    """Module, name, constants of the class and names of everything else that it has beyond what every module has."""
    if cls.__module__.startswith("torch."):
        return cls.__module__, cls.__qualname__, {}, None
    constants: dict[str, Any] = {}
    members: set[str] = set()
    for base in reversed(cls.__mro__):
        if base is object or base.__module__.startswith("torch."):
            continue
        for name, value in vars(base).items():
            if is_constant(value) and not (name.startswith("__") and name.endswith("__")):
                constants[name] = value
                members.discard(name)
            elif name not in _NO_BEHAVIOUR:
                members.add(name)
                constants.pop(name, None)
    return cls.__module__, cls.__qualname__, constants, tuple(sorted(members))


_NO_BEHAVIOUR = frozenset(
    """__module__ __qualname__ __doc__ __dict__ __weakref__ __annotations__ __annotate__ __annotate_func__ __annotations_cache__ __init__
    __firstlineno__ __static_attributes__ __constants__ __parameters__ __orig_bases__ __repr__ extra_repr kernel_layer_name""".split()
)


def _layer_state(described: tuple[Any, ...], tensors: Any, constants: Any, children: Any) -> LayerState:
    module, name, of_class, members = described
    special = members is not None and any(member.startswith("__") for member in members)
    if members is None or special or _import_classes:
        cls: Any = _imported(module, name)
    else:
        attributes = {member: _Elsewhere(f"{name}.{member}") for member in members}
        cls = type(name.rpartition(".")[2], (nn.Module,), {"__module__": module, "__qualname__": name, **of_class, **attributes})
    return LayerState(cls, tensors, constants, children)


class _Elsewhere:
    """An attribute of a class that this process has not imported."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> Any:
        raise NeedsClass(self.name)


def _imported(module: str, name: str) -> Any:
    if module == "__main__":
        raise CannotBeSent(f"the kernel uses {name}, which is defined in __main__")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found
