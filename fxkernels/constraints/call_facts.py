"""What is known of one call of a kernel, by the names that constraints use."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from inspect import Parameter
from typing import Any, TypeAlias

import sympy
import torch

from ..kernels.binding import Binding
from ..kernels.call import fill_slots
from ..kernels.layer import KernelLayer
from ..kernels.signature import forward_signature
from ..kernels.stand_in import LayerState
from ..target import Target
from .expression import Measure, Reference
from .vocabulary import DTYPES, TARGET_FACTS

Symbols: TypeAlias = Mapping[sympy.Symbol, Any]
"""Values of the symbols in dynamic sizes and numbers."""

Size: TypeAlias = int | torch.SymInt


class UndefinedError(Exception):
    """A term has no value for this call, such as the size of None. No clause is met by it, nor by its opposite.

    Args:
        code: Miss code of a clause that fails because of it.
        reason: Why, as a phrase.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """What a constraint can ask of a tensor.

    Args:
        dtype: Its dtype.
        shape: Its sizes.
        stride: Its strides in elements; None for layouts that have none.
        device: Device type.
        requires_grad: Whether a gradient flows to it.
    """

    dtype: torch.dtype
    shape: tuple[Size, ...]
    stride: tuple[Size, ...] | None
    device: str = "cpu"
    requires_grad: bool = False

    @staticmethod
    def of(tensor: torch.Tensor) -> TensorFacts:
        """Return the facts of a tensor, real or fake."""
        stride = tuple(tensor.stride()) if tensor.layout is torch.strided else None
        return TensorFacts(tensor.dtype, tuple(tensor.shape), stride, tensor.device.type, tensor.requires_grad)

    def __str__(self) -> str:
        return f"a tensor of {described(self.dtype)}{list(self.shape)}"


@dataclass(frozen=True, eq=False)
class CallFacts:
    """One call of a kernel.

    Args:
        arguments: By the names of the kernel's parameters, with the defaults of those that are left out.
        attributes: The layer's tensors and constants, by dotted name without ``self.``.
        training: The layer's training flag; None if it is not known.
        capability: The device's compute capability times ten; None if it has none.
        torch: Torch's version.
        triton: Triton's version; None if it is not installed.
        symbols: Values that dynamic sizes are taken to have. A size with a symbol that is not listed stays symbolic.
        changed: Other values of arguments and attributes, by their `place`.
    """

    arguments: Mapping[str, Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    training: bool | None = None
    capability: int | None = None
    torch: str | None = None
    triton: str | None = None
    symbols: Symbols = field(default_factory=dict)
    changed: Mapping[Reference, Any] = field(default_factory=dict)

    @staticmethod
    def of(
        kernel: KernelLayer, binding: Binding, inputs: Sequence[Any], target: Target | None = None, triton: str | None = None
    ) -> CallFacts:
        """Return the call of a kernel instead of a layer call.

        Args:
            kernel: The kernel layer.
            binding: How it is called.
            inputs: Example values of the call's inputs.
            target: What the kernel was chosen for; None if nothing of it is asked.
            triton: Triton's version.
        """
        args, kwargs = fill_slots(binding.args, tuple(inputs)), fill_slots(binding.kwargs, tuple(inputs))
        attributes = {**dict(_constants(binding.state)), **fill_slots(binding.tensors, tuple(inputs))}
        capability, version = (target.capability, target.torch) if target is not None else (None, None)
        return CallFacts(_named(kernel, args, kwargs), attributes, binding.training, capability, version, triton)

    @cached_property
    def environment(self) -> Any:
        """The shape environment of its dynamic sizes; None if it has none."""
        sizes = _symbolic((*self.arguments.values(), *self.attributes.values()))
        return next((size.node.shape_env for size in sizes), None)

    @cached_property
    def hints(self) -> Symbols:
        """The values with which the call is captured, of the symbols that have one before it runs."""
        environment = self.environment
        return dict(environment.backed_var_to_val) if environment is not None else {}

    @cached_property
    def present(self) -> CallFacts:
        """The call with the sizes with which it is captured."""
        return self.at(self.hints) if self.hints else self

    def at(self, symbols: Symbols) -> CallFacts:
        """Return the call with values for the symbols in its sizes."""
        return replace(self, symbols={symbol: sympy.sympify(value) for symbol, value in symbols.items()})

    def place(self, reference: Reference) -> Reference:
        """Return the reference as an argument, or as an attribute with ``self``: one spelling for one value.

        Raises:
            UndefinedError: If the call has neither.
        """
        first, *rest = reference.path
        if first != "self":
            if first in self.arguments:
                return reference
            if first not in self.attributes:
                raise UndefinedError("signature", self._no_such(str(first)))
            return Reference(("self", first, *rest))
        name = _attribute(reference)
        if name not in self.attributes:
            raise UndefinedError("missing_attribute", f"the layer has no {name}, only: {', '.join(self.attributes) or 'nothing'}")
        return reference

    def value(self, reference: Reference) -> Any:
        """Return an argument or attribute; `TensorFacts` for a tensor.

        Raises:
            UndefinedError: If there is none.
        """
        place = self.place(reference)
        known = self._known
        if place not in known:
            known[place] = self._value(place)
        return known[place]

    def tensor(self, reference: Reference) -> TensorFacts:
        """Return the argument or attribute, which must be a tensor.

        Raises:
            UndefinedError: If there is none, or it is something else.
        """
        value = self.value(reference)
        if isinstance(value, TensorFacts):
            return value
        raise UndefinedError("condition_false", f"{reference} is {described(value)}" + ("" if value is None else ", not a tensor"))

    def from_front(self, measure: Measure) -> Measure:
        """Return the measure with its dimension counted from the front: ``dim(x, 2)`` for ``dim(x, -1)``.

        Raises:
            UndefinedError: If the tensor has no such dimension.
        """
        rank, index = len(self.tensor(measure.of).shape), measure.index or 0
        if not -rank <= index < rank:
            raise UndefinedError("rank", f"{measure.of} has {rank} dimension{'s' * (rank != 1)}")
        return Measure(measure.word, measure.of, index % rank)

    def size(self, measure: Measure) -> Size:
        """Return a size or stride.

        Raises:
            UndefinedError: If it is no tensor, or has no such dimension, or no strides.
        """
        tensor, index = self.tensor(measure.of), self.from_front(measure).index or 0
        sizes = tensor.shape if measure.word == "dim" else tensor.stride
        if sizes is None:
            raise UndefinedError("layout", f"{measure.of} has no strides")
        return sizes[index]

    @cached_property
    def _known(self) -> dict[Reference, Any]:
        """What `value` has found: a constraint reads two of the hundred tensors that a layer has, and each several times."""
        return {}

    def _value(self, place: Reference) -> Any:
        path: tuple[str | int, ...] = tuple([step for step in place.path if isinstance(step, str)])
        value = self.attributes[_attribute(place)] if path[0] == "self" else self.arguments[str(path[0])]
        value = self.changed.get(Reference(path), value)
        for index in place.path[len(path) :]:
            if not isinstance(value, tuple | list) or not isinstance(index, int) or not -len(value) <= index < len(value):
                raise UndefinedError("condition_false", f"there is no {place}: {path[-1]} is {described(value)}")
            path = (*path, index)
            value = self.changed.get(Reference(path), value[index])
        if isinstance(value, torch.Tensor):
            value = TensorFacts.of(value)
        if isinstance(value, TensorFacts):
            stride = None if value.stride is None else tuple(map(self._size, value.stride))
            return replace(value, shape=tuple(map(self._size, value.shape)), stride=stride)
        return self._size(value) if isinstance(value, torch.SymInt | torch.SymFloat) else value

    def _size(self, value: Any) -> Any:
        """A size as a number where it is one, or where its symbols have values."""
        if not isinstance(value, torch.SymInt | torch.SymFloat):
            return value
        expression = value.node.expr.xreplace(self.symbols)
        if expression.free_symbols:
            return value
        return int(expression) if expression.is_Integer else float(expression)

    def _no_such(self, name: str) -> str:
        present = ", ".join(self.arguments) or "none"
        attributes = ", ".join(f"self.{attribute}" for attribute in self.attributes)
        near = difflib.get_close_matches(name, [*self.arguments, *DTYPES, *TARGET_FACTS], 1)
        reason = f"there is no {name}; the call's arguments are {present}" + (
            f", the layer's attributes {attributes}" if attributes else ""
        )
        return reason + (f"; did you mean {near[0]}?" if near else "")


def described(value: Any) -> str:
    """Return a value as a sentence names it."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    return str(value) if isinstance(value, TensorFacts | torch.SymInt | torch.SymFloat) else f"a {type(value).__name__}"


def _attribute(reference: Reference) -> str:
    return ".".join([step for step in reference.path[1:] if isinstance(step, str)])


def _named(kernel: KernelLayer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    bound = forward_signature(kernel.cls).bind(*args, **kwargs)
    bound.apply_defaults()
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return named


def _constants(state: LayerState, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in state.constants.items():
        yield prefix + name, value
    for name, child in state.children.items():
        yield from _constants(child, f"{prefix}{name}.")


def _symbolic(values: Iterable[Any]) -> Iterator[torch.SymInt | torch.SymFloat]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield from _symbolic((*value.shape, *(value.stride() if value.layout is torch.strided else ())))
        elif isinstance(value, tuple | list):
            yield from _symbolic(value)
        elif isinstance(value, torch.SymInt | torch.SymFloat):
            yield value
