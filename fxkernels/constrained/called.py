"""What a kernel is handed in one call, by the names that constraints use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from inspect import Parameter
from typing import Any, TypeAlias

import sympy
import torch

from ..kernels.bound import Bound
from ..kernels.call import fill_slots
from ..kernels.layer import KernelLayer
from ..kernels.signature import forward_signature
from ..kernels.stand_in import LayerState
from ..passes.constraints import Facts, Opaque, TensorFacts
from ..passes.constraints.expression import Measure, Reference
from ..passes.constraints.facts import size as size_of
from ..passes.constraints.lookup import Lookup
from ..target import Target

Symbols: TypeAlias = dict[sympy.Symbol, sympy.Expr]
"""Values of the symbols in dynamic sizes."""


@dataclass(frozen=True, eq=False)
class Called:
    """One call of a kernel.

    Args:
        arguments: By the names of the kernel's parameters, with the defaults of those that are left out.
        attributes: The layer's tensors and constants, by dotted name.
        training: The layer's training flag.
        target: What the kernel was chosen for; None if nobody asks for it.
        triton: Triton's version; None if it is not installed.
    """

    arguments: Mapping[str, Any]
    attributes: Mapping[str, Any]
    training: bool
    target: Target | None = None
    triton: str | None = None

    @staticmethod
    def of(kernel: KernelLayer, bound: Bound, inputs: Sequence[Any], target: Target | None = None, triton: str | None = None) -> Called:
        """Return the call of a kernel in the place of a layer call.

        Args:
            kernel: The kernel layer.
            bound: How it is called.
            inputs: Example values of the call's inputs.
            target: What the kernel was chosen for.
            triton: Triton's version.
        """
        args, kwargs = fill_slots(bound.args, tuple(inputs)), fill_slots(bound.kwargs, tuple(inputs))
        attributes = {**dict(_constants(bound.state)), **fill_slots(bound.tensors, tuple(inputs))}
        return Called(_named(kernel, args, kwargs), attributes, bound.training, target, triton)

    @cached_property
    def facts(self) -> Facts:
        """What is known of it whatever values its dynamic sizes take."""
        return self._facts(_expression, _Ranges(self))

    @cached_property
    def example(self) -> Facts:
        """What is known of it with the sizes that it is captured with. A size that is known only when it runs stays what it is."""
        symbols = self.sizes
        return self._facts(lambda size: _valued(_expression(size), symbols), {})

    @cached_property
    def sizes(self) -> Symbols:
        """The values of the symbols with which it is captured."""
        environment = self.environment
        return {symbol: sympy.sympify(value) for symbol, value in environment.backed_var_to_val.items()} if environment is not None else {}

    @cached_property
    def environment(self) -> Any:
        """The shape environment of its dynamic sizes; None if it has none."""
        for value in _scalars((*self.arguments.values(), *self.attributes.values())):
            if isinstance(value, torch.SymInt | torch.SymFloat):
                return value.node.shape_env
        return None

    def now(self, read: Measure | Reference) -> Any:
        """Return what a constraint reads as it stands in the graph: comparing it makes a guard."""
        lookup = Lookup(Facts(self.arguments, self.attributes))
        if isinstance(read, Reference):
            return lookup.reference(read)
        tensor: torch.Tensor = lookup.reference(read.of)
        return (tensor.shape if read.word == "dim" else tensor.stride())[read.index or 0]

    def _facts(self, size: Callable[[Any], Any], ranges: Mapping[sympy.Symbol, tuple[int | None, int | None]]) -> Facts:
        return Facts(
            _Converted(self.arguments, size),
            _Converted(self.attributes, size),
            training=self.training,
            capability=self.target.capability if self.target is not None else None,
            torch=self.target.torch if self.target is not None else None,
            triton=self.triton,
            ranges=ranges,
        )


@dataclass(frozen=True)
class _Converted(Mapping[str, Any]):
    """Facts about values, found out when they are asked for: a constraint reads two of the hundred tensors that a layer has."""

    values_: Mapping[str, Any]
    size: Callable[[Any], Any]
    _known: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = _fact(self.values_[name], self.size)
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self.values_

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)


@dataclass(frozen=True)
class _Ranges(Mapping[sympy.Symbol, tuple[int | None, int | None]]):
    """What the capture knows of its symbols. Most calls have none, and nobody asks."""

    called: Called

    @property
    def _known(self) -> Mapping[sympy.Symbol, Any]:
        environment = self.called.environment
        return environment.var_to_range if environment is not None else {}

    def __getitem__(self, symbol: sympy.Symbol) -> tuple[int | None, int | None]:
        found = self._known[symbol]
        return (_bound(found.lower), _bound(found.upper)) if symbol.is_integer else (None, None)

    def __iter__(self) -> Iterator[sympy.Symbol]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def _fact(value: Any, size: Callable[[Any], Any]) -> Any:
    if isinstance(value, torch.Tensor):
        strides = tuple([size(stride) for stride in value.stride()]) if value.layout is torch.strided else None
        return TensorFacts(value.dtype, tuple([size(item) for item in value.shape]), strides, value.device.type, value.requires_grad)
    if isinstance(value, torch.SymInt | torch.SymFloat):
        return size(value)
    if value is None or isinstance(value, bool | int | float | str | torch.dtype):
        return value
    if isinstance(value, tuple):
        return tuple([_fact(item, size) for item in value])
    return Opaque(type(value).__name__)


def _expression(size: Any) -> Any:
    return size.node.expr if isinstance(size, torch.SymFloat) else size_of(size)


def _valued(size: Any, symbols: Symbols) -> Any:
    """A size with values for its symbols: a number, unless it has one that has no value."""
    if not isinstance(size, sympy.Expr):
        return size
    value = size.xreplace(symbols)
    return value if value.free_symbols else int(value) if value.is_Integer else float(value)


def _named(kernel: KernelLayer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    bound = forward_signature(kernel.cls).bind(*args, **kwargs)
    bound.apply_defaults()
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return {name: _with_tuples(value) for name, value in named.items()}


def _with_tuples(value: Any) -> Any:
    """Lists as tuples: constraints know one kind of sequence."""
    return tuple([_with_tuples(item) for item in value]) if isinstance(value, list | tuple) else value


def _constants(state: LayerState, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in state.constants.items():
        yield prefix + name, value
    for name, child in state.children.items():
        yield from _constants(child, f"{prefix}{name}.")


def _scalars(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield from value.shape
            yield from value.stride() if value.layout is torch.strided else ()
        elif isinstance(value, tuple):
            yield from _scalars(value)
        else:
            yield value


def _bound(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None  # infinity
