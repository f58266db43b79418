"""The `self` that a kernel layer sees inside a graph.

A kernel layer reads `self.weight`, `self.variance_epsilon`, `self.gate_proj(...)`. In a captured graph there is no module, only its
tensors as graph values. The stand-in is an object of the annotated class that has those tensors, the layer's constants and stand-ins of its
submodules, and nothing else: whatever a kernel can reach through it is an input of the call or guarded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

CONSTANTS = (bool, int, float, complex, str, torch.dtype, torch.device, torch.Size, type(None))
"""Types of attributes that are handed to a kernel by value."""


def is_constant(value: Any) -> bool:
    """Whether an attribute is a constant, or a tuple of constants."""
    return isinstance(value, CONSTANTS) or (type(value) is tuple and all(map(is_constant, value)))


@dataclass(frozen=True, eq=False)
class LayerState:
    """What a kernel may know of a layer: its class, tensors by name, constants, and the same of its submodules.

    Args:
        cls: The class of the module; stand-ins are instances of it, so its methods and properties work on them.
        tensors: Names of its own parameters and buffers, and of its numbers that are inputs of the graph.
        constants: Its attributes that are constants, with their values.
        children: Its submodules.
    """

    cls: type[nn.Module]
    tensors: tuple[str, ...] = ()
    constants: dict[str, Any] = field(default_factory=dict)
    children: dict[str, LayerState] = field(default_factory=dict)

    @staticmethod
    def of(module: nn.Module, fixed: Callable[[str], bool], prefix: str = "") -> LayerState:
        """Read the state off a module.

        Args:
            module: The layer.
            fixed: Asked with the dotted name of every attribute that is a constant: whether it is one in this graph as well (and guarded
                there), or a number that the graph takes as an input. The latter is listed among the tensors.
            prefix: Of the dotted names.
        """
        stores = (module._parameters, module._buffers)
        tensors = [name for store in stores for name, value in store.items() if value is not None]
        constants: dict[str, Any] = {name: None for store in stores for name, value in store.items() if value is None}
        for name, value in vars(module).items():
            if name in _MODULE_STATE or not is_constant(value):
                continue
            if fixed(prefix + name):
                constants[name] = value
            else:
                tensors.append(name)
        children = {name: LayerState.of(child, fixed, f"{prefix}{name}.") for name, child in module._modules.items() if child is not None}
        return LayerState(type(module), tuple(tensors), constants, children)

    def tensor_names(self, prefix: str = "") -> Iterator[str]:
        """Yield the dotted names of all tensors, in the order in which `stand_in` takes their values."""
        yield from (prefix + name for name in self.tensors)
        for name, child in self.children.items():
            yield from child.tensor_names(f"{prefix}{name}.")

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for two layers exactly if a kernel cannot tell their stand-ins apart but by their tensors."""
        children = tuple((name, child.key) for name, child in self.children.items())
        constants = tuple((name, repr(value)) for name, value in self.constants.items())  # 1, 1.0 and True are equal, but not the same
        return (self.cls, self.tensors, constants, children)

    @property
    def available(self) -> frozenset[str]:
        """First-level attribute names that a kernel may read."""
        return frozenset((*self.tensors, *self.constants, *self.children))


_MODULE_STATE: dict[str, Any] = vars(nn.Module())
_HOOKS = {
    name: value
    for name, value in _MODULE_STATE.items()
    if isinstance(value, OrderedDict | dict) and name not in ("_parameters", "_buffers", "_modules")
}


def stand_in(state: LayerState, training: bool) -> Callable[[Sequence[Any]], nn.Module]:
    """Return a function from the values of `state.tensor_names()` to a new stand-in.

    Every call of a graph gets a stand-in of its own, so threads that run one graph at once do not meet.
    """
    plain = {**_MODULE_STATE, **_HOOKS, **state.constants, "training": training}
    children = [(name, stand_in(child, training), len(list(child.tensor_names()))) for name, child in state.children.items()]
    cls, names = state.cls, state.tensors

    def build(values: Sequence[Any]) -> nn.Module:
        module = object.__new__(cls)
        attributes = module.__dict__
        attributes.update(plain)
        tensors = dict(zip(names, values, strict=False))
        attributes["_parameters"] = tensors
        attributes["_buffers"] = {}
        modules: dict[str, nn.Module] = {}
        start = len(names)
        for name, child, width in children:
            modules[name] = child(values[start : start + width])
            start += width
        attributes["_modules"] = modules
        attributes.update(tensors)  # found without nn.Module.__getattr__, which costs more than the rest of a small call
        return module

    return build
