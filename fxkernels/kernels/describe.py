"""A layer call in words: its inputs, the operations of its region, and the call of the kernel that replaces them.

All names are local to the call, so calls of the same form have equal descriptions and share one.
"""

from __future__ import annotations

import inspect
import itertools
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx

from ..passes.example_values import example
from ..passes.layer_call import LayerCall
from ..passes.region import external_inputs
from .binding import Binding
from .call import Slot
from .call_form import key_in_plans
from .code_text import Symbols, code_of, is_assignment, spelled, spelled_value
from .layer import KernelIdentity
from .origin import LayerOrigin

# torch.fx makes names unique with numbers, which differ from call to call: mul_3, hidden_states_12_1.
_NUMBERS = re.compile(r"(?:_\d+)+$")

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_TORCH = str(Path(torch.__file__).parent) + os.sep

# Calls that torch makes for its own statistics; they compute nothing.
_SILENT = frozenset({"_log_api_usage_once"})


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a layer call.

    Names are local to the call: its inputs are called what the layer calls them (``hidden_states``, ``self.weight``), its values what the
    layer's code calls them (``variance``), or else the operation (``rsqrt``), and its outputs ``output`` (of two values ``output_0`` and
    ``output_1``). So the operations of two identical calls are equal.

    Args:
        name: Name of the value that it computes, of several joined by ", "; empty where it computes none, as an assignment (``x += y``).
        code: The operation as it would be written in Python, e.g. ``hidden_states.pow(2)``.
        value: Dtype, shape and, where it is not contiguous, strides of what it computes, e.g. ``f32[2, 8, 64] strides [1024, 128, 2]``;
            several joined by ", ". Dynamic sizes are ``s0``, ``s1`` in the order of the inputs.
        location: ``file:line`` of the user's source, if known.
    """

    name: str
    code: str
    value: str
    location: str | None = None

    def __str__(self) -> str:
        line = f"{self.name} = {self.code}" if self.name else self.code
        return f"{line}  # {self.value}" if self.value else line


@dataclass(frozen=True, slots=True)
class Description:
    """A layer call in words, shared by all calls of the same form.

    Args:
        form: The key of the form in tuned plans.
        inputs: The graph values that the call reads, e.g. ``hidden_states: bf16[2, 8, 64]``.
        before: What the region does, one operation for each node; those of the annotated calls inside it are among them.
        after: The call of the kernel that replaces the region; empty if none does.
    """

    form: str = ""
    inputs: tuple[str, ...] = ()
    before: tuple[Operation, ...] = ()
    after: tuple[Operation, ...] = ()


def describe(
    call: LayerCall, kernel: KernelIdentity | None = None, binding: Binding | None = None, cloned: Collection[int] = ()
) -> Description:
    """Return a layer call in words.

    Args:
        call: The call, before its graph is edited.
        kernel: Who replaces the call, if a kernel does.
        binding: How the kernel is called.
        cloned: Positions of the inputs of which the kernel gets a copy.
    """
    names = _LocalNames(call)
    inputs, before = names.inputs(), names.before()
    after = (names.kernel_call(kernel, binding, cloned),) if kernel is not None and binding is not None else ()
    return Description(key_in_plans(call), inputs, before, after)


def describe_inputs(call: LayerCall) -> tuple[str, ...]:
    """Return the graph values that a call reads, as the layer names them, e.g. ``hidden_states: bf16[2, 8, 64]``."""
    return _LocalNames(call).inputs()


class _LocalNames:
    """The names that the values of one call have in its description, and the sentences that are made of them."""

    def __init__(self, call: LayerCall) -> None:
        self._call = call
        self._inputs = external_inputs(call)
        self._names: dict[fx.Node, str] = {}
        self._used: set[str] = set()
        self._symbols = Symbols()
        for name, node in _signature_names(call):
            self._name(node, name)
        for node in self._inputs:
            self._value(node)  # so dynamic sizes are numbered in the order of the inputs
        for node in self._inputs:
            value = example(node)
            self._name(node, str(self._symbols.size(value)) if isinstance(value, torch.SymInt) else _NUMBERS.sub("", node.name))
        self._computed = call.computed_outputs
        for number, node in enumerate(self._computed):  # their nodes have the names of the caller's variables
            self._name(node, "output" if len(self._computed) == 1 else f"output_{number}")

    def inputs(self) -> tuple[str, ...]:
        values = {node: "int" if isinstance(example(node), torch.SymInt) else self._value(node) for node in self._inputs}
        return tuple(f"{self._names[node]}: {value}" for node, value in values.items())

    def before(self) -> tuple[Operation, ...]:
        nodes = [node for node in self._call.region if getattr(node.target, "__name__", "") not in _SILENT]
        for node in nodes:
            self._name(node, _NUMBERS.sub("", node.name))
        return tuple([self._operation(node) for node in nodes])

    def kernel_call(self, kernel: KernelIdentity, binding: Binding, cloned: Collection[int]) -> Operation:
        """The call of the kernel, with its arguments and the layer's tensors."""
        names = [self._names[node] for node in self._inputs]
        slots = {Slot(position): f"{name}.clone()" if position in cloned else name for position, name in enumerate(names)}
        args = [spelled(value, slots) for value in binding.args]
        kwargs = [f"{name}={spelled(value, slots)}" for name, value in binding.kwargs.items()]
        tensors = [slots[value] for value in binding.tensors.values() if isinstance(value, Slot)]
        name = ", ".join(self._names[node] if node in self._call.inside else "_" for node in self._call.outputs)
        value = ", ".join(self._value(node) for node in self._call.outputs)
        return Operation(name, f"{kernel}({', '.join([*args, *kwargs, *tensors])})", value)

    def _operation(self, node: fx.Node) -> Operation:
        code = code_of(node, self._names)
        if not is_assignment(node):
            return Operation(self._names[node], code, self._value(node), _location(node))
        target = node.args[0]
        if isinstance(target, fx.Node):
            self._names[node] = self._names[target]
        return Operation("", code, self._value(node), _location(node))

    def _name(self, node: fx.Node, name: str) -> None:
        if node in self._names:
            return
        free = next(free for free in itertools.chain([name], (f"{name}_{n}" for n in itertools.count(1))) if free not in self._used)
        self._used.add(free)
        self._names[node] = free

    def _value(self, node: fx.Node) -> str:
        return spelled_value(example(node), self._symbols)


def _signature_names(call: LayerCall) -> Iterator[tuple[str, fx.Node]]:
    """The graph values among a call's arguments and its layer's tensors, with the names that the layer has for them."""
    origin: LayerOrigin | None = call.site.origin
    if not call.site.arguments_known:
        return
    for name, value in _arguments(origin, call):
        yield from _leaves(name, value)
    for name, value in call.tensors.items():
        yield from _leaves(f"self.{name}", value)


def _arguments(origin: LayerOrigin | None, call: LayerCall) -> Iterator[tuple[str, Any]]:
    parameters = list(origin.signature.parameters.values()) if origin is not None else []
    for number, value in enumerate(call.args):
        parameter = parameters[min(number, len(parameters) - 1)] if parameters else None
        if parameter is None or parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            yield f"argument_{number}", value
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            yield f"{parameter.name}[{number - len(parameters) + 1}]", value
        else:
            yield parameter.name, value
    yield from call.kwargs.items()


def _leaves(name: str, value: Any) -> Iterator[tuple[str, fx.Node]]:
    if isinstance(value, fx.Node):
        yield name, value
    elif isinstance(value, tuple | list):
        for number, item in enumerate(value):
            yield from _leaves(f"{name}[{number}]", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(f"{name}[{key!r}]", item)


def _location(node: fx.Node) -> str | None:
    """The innermost line of the node's stack that is not torch's own."""
    trace = node.meta.get("stack_trace") or ""
    end = len(trace)
    while (start := trace.rfind('File "', 0, end)) >= 0:
        frame = _FRAME.match(trace, start)
        if frame is not None and not frame[1].startswith(_TORCH):
            return f"{frame[1]}:{frame[2]}"
        end = start
    return None
