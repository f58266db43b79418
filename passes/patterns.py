"""A composition of operations as a value: a pattern, and the words that a module's forward may use to say what varies.

`torch.fx` traces a pattern once, from a method of a module. The pattern leaves open: its parameters (a value of the graph, or a constant),
`ANY` (a constant that does not matter), `one_of` (spellings), and a `Layer` (a layer call of that name, whatever its class). A pattern
may be loose, because a kernel is compared with the region that was matched, and not with the pattern.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import fx, nn

from .operations import canonical_name


class _Any:
    """The type of `ANY`. Functions of torch accept it in any place while a pattern is traced."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NotImplemented

    def __repr__(self) -> str:
        return "ANY"


ANY: Any = _Any()
"""In a pattern: any constant, any sizes (``x.expand(ANY)``), or any value that the kernel does not need."""


def one_of(*spellings: Any) -> Any:
    """In a pattern: a value that is computed in one of these ways. The first that matches counts.

    An optional operation is ``one_of(x.float(), x)``. Outside of a pattern the first spelling is returned.

    Args:
        spellings: Values of the pattern.

    Example:
        >>> key = one_of(key[:, :, None].expand(ANY).reshape(ANY), key.repeat_interleave(ANY, ANY))
    """
    proxy = next((value for value in spellings if isinstance(value, fx.Proxy)), None)
    if proxy is None:
        return spellings[0]
    return proxy.tracer.create_proxy("call_function", one_of, spellings, {})


class Layer(nn.Module):
    """In a pattern: a call of an annotated layer by its name, whatever its class, constants or rounding.

    Args:
        layer_name: The name of the annotation, e.g. ``RMSNorm``.
    """

    def __init__(self, layer_name: str) -> None:
        super().__init__()
        self.layer_name = layer_name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: a pattern is matched, and not run."""
        raise TypeError(f"Layer({self.layer_name!r}) is an atom of a pattern: it matches a layer call and computes nothing itself")


class _PatternTracer(fx.Tracer):
    def __init__(self, method: str) -> None:
        super().__init__()
        self.traced_func_name = method

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Layer)

    def create_arg(self, a: Any) -> Any:
        return a if a is ANY else super().create_arg(a)


@dataclass(frozen=True, eq=False)
class Pattern:
    """A composition of operations to be looked for in graphs.

    Args:
        name: What reports call it, e.g. ``AddRMSNorm.forward``.
        graph: Its operations.
        layers: The layer names of its atoms, by the target of their nodes.
        outputs: The nodes that it returns.
    """

    name: str
    graph: fx.Graph
    layers: Mapping[str, str]
    outputs: tuple[fx.Node, ...]

    @classmethod
    def of(cls, module: nn.Module, method: str = "forward") -> Pattern:
        """Trace a method of a module.

        Raises:
            ValueError: If it cannot be traced, computes nothing, returns one of its parameters or a constant, or is in two parts.
        """
        name = f"{type(module).__qualname__}.{method}"
        where = _location(getattr(type(module), method))
        try:
            graph = _PatternTracer(method).trace(module)
        except Exception as error:  # whatever the user's code or torch raises on proxies
            raise ValueError(
                f"the pattern {name} ({where}) cannot be traced: {error}\n  A pattern is straight-line code on its parameters, without"
                " conditions on values and without sizes: write ANY for what may differ, and one_of(...) for spellings."
            ) from error
        returned = next(node for node in graph.nodes if node.op == "output").args[0]
        outputs = returned if isinstance(returned, tuple | list) else (returned,)
        layers = {path: layer.layer_name for path, layer in module.named_modules() if isinstance(layer, Layer)}
        pattern = cls(name, graph, layers, tuple(outputs))
        pattern._check(where)
        return pattern

    @cached_property
    def parameters(self) -> Mapping[str, fx.Node]:
        """The placeholders by name."""
        return {str(node.target): node for node in self.graph.nodes if node.op == "placeholder"}

    @cached_property
    def anchor(self) -> fx.Node:
        """The output from which matching begins: the one that most of the pattern leads to."""
        return max(self.outputs, key=lambda node: len(self.ancestors(node)))

    @cached_property
    def size(self) -> int:
        """How many operations it has, all spellings counted."""
        return sum(node.op in ("call_function", "call_method", "call_module") and node.target is not one_of for node in self.graph.nodes)

    def ancestors(self, node: fx.Node) -> frozenset[fx.Node]:
        """Return the node and all that it is computed from."""
        return self._ancestors[node]

    @cached_property
    def _ancestors(self) -> Mapping[fx.Node, frozenset[fx.Node]]:
        found: dict[fx.Node, frozenset[fx.Node]] = {}
        for node in self.graph.nodes:
            found[node] = frozenset((node,)).union(*(found[each] for each in node.all_input_nodes))
        return found

    def names(self, node: fx.Node) -> Iterator[str]:
        """Yield what an operation of a graph may be called that matches the node; a layer call counts by ``layer NAME``."""
        if node.target is one_of:
            for spelling in node.all_input_nodes:
                yield from self.names(spelling)
        elif (layer := self.layer_of(node)) is not None:
            yield f"layer {layer[0]}"
        else:
            yield canonical_name(node)

    def layer_of(self, node: fx.Node) -> tuple[str, fx.Node, int] | None:
        """Return layer name, atom and number of the output, if the node is an output of an atom."""
        number, atom = 0, node
        if node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem" and isinstance(node.args[0], fx.Node):
            number, atom = node.args[1], node.args[0]  # type: ignore[assignment]
        return (self.layers[str(atom.target)], atom, number) if atom.op == "call_module" else None

    def _check(self, where: str) -> None:
        problem = None
        if not self.size:
            problem = "it has no operation"
        elif not all(isinstance(node, fx.Node) for node in self.outputs):
            problem = f"it returns {self.outputs!r}: return one value of the pattern, or a tuple of them"
        elif (given := next((node for node in self.outputs if node.op == "placeholder"), None)) is not None:
            problem = f"it returns its own parameter {given.name}: leave that out, it is not computed"
        elif (apart := next((node for node in self.outputs if not self._ancestors[node] & self._ancestors[self.anchor]), None)) is not None:
            problem = f"{apart.name} has no value in common with {self.anchor.name}: these are two patterns"
        if problem is not None:
            raise ValueError(f"the pattern {self.name} ({where}): {problem}")


def _location(function: Any) -> str:
    code = inspect.unwrap(function).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"
