"""An opaque kernel: an operator whose implementation runs the kernel's Python, and whose fake is the reference.

Operators are named by kernel and argument kinds, not by sizes. What differs from call to call stands in an *entry*, which the operator's
last argument names: constants, the reference, how the backward gets what it needs. Name and key are equal in every process.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from ...errors import FxKernelsError, KernelRuntimeError
from .kernel_case import KernelCase, Run
from .layouts import kinds
from .memory import clone, separated
from .names import digest, operator_name, text_of_graph, text_of_state, text_of_value, text_of_values
from .own_backward import OwnBackward
from .repairs import Repairs

_NAMESPACE = "fxkernels"
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
_LISTED = 3
_lock = threading.RLock()
_entries: dict[str, Entry] = {}
_operators: dict[str, Any] = {}


@dataclass(eq=False)
class Entry:
    """What the operators run for one form of call.

    Args:
        case: The kernel and the form of call.
        repairs: The inputs of which the kernel gets copies, and the outputs that are copied into another order.
        kept: Positions of outputs that the kernel keeps for itself; they are copied.
        own: The kernel's own backward, if it is used.
        may_be_empty: Whether an input may have no elements.
        paths: Where the calls stand that use the entry.
    """

    case: KernelCase
    repairs: Repairs = Repairs()
    kept: frozenset[int] = frozenset()
    own: OwnBackward | None = None
    may_be_empty: bool = False
    paths: dict[str, None] = field(default_factory=dict)
    run: Run = field(init=False)
    """Runs the kernel."""

    def __post_init__(self) -> None:
        self.run = self.case.runner(self.repairs)

    def forward(self, inputs: Sequence[Any]) -> Sequence[torch.Tensor]:
        """Return the kernel's outputs, none of which shares memory with an input."""
        if self.may_be_empty and any(isinstance(value, torch.Tensor) and value.numel() == 0 for value in inputs):
            return separated(self.case.reference_outputs(*inputs), inputs)  # there is nothing to compute, and few kernels launch nothing
        outputs: Sequence[torch.Tensor] = self.run(*inputs)
        if self.kept:
            outputs = [clone(output) if position in self.kept else output for position, output in enumerate(outputs)]
        return separated(outputs, inputs)

    def forward_and_save(self, inputs: Sequence[Any]) -> Sequence[torch.Tensor]:
        """Return the kernel's outputs, and the tensors that its backward needs beside inputs and outputs."""
        assert self.own is not None
        return self.own.forward(inputs)

    def located(self, error: KernelRuntimeError) -> KernelRuntimeError:
        """Return the error with the paths of all calls that it may come from: equal calls share their operators."""
        first = list(self.paths)[:_LISTED]
        more = f" or {len(self.paths) - _LISTED} more" if len(self.paths) > _LISTED else ""
        return KernelRuntimeError(" or ".join(first) + more, error.kernel, error.__cause__ or error)

    def fake(self, inputs: Sequence[Any]) -> list[torch.Tensor]:
        """Return tensors like the outputs, in memory of their own."""
        outputs = self.case.reference_outputs(*inputs)
        return [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device) for t in outputs]

    def fake_and_saved(self, inputs: Sequence[Any]) -> list[torch.Tensor]:
        """Return tensors like the outputs and the intermediates."""
        assert self.own is not None
        assert self.own.saving is not None
        sizes, _ = self.own.symbols.numbers(inputs)
        near = next(value for value in inputs if isinstance(value, torch.Tensor))
        return [*self.fake(inputs), *(layout.empty(sizes, near) for layout in self.own.saving.intermediates)]


class Opaque:
    """The operators of one entry, called as the kernel is called: with the inputs, for all outputs.

    Args:
        entry: The entry.
        case: Its case, with the example values.
    """

    def __init__(self, entry: Entry, case: KernelCase) -> None:
        own = entry.own
        self._case, self._own = entry.case, own
        self.key = _key(entry, case)
        self._single = len(case.outputs) == 1
        self._forward = _operator("", _impl(Entry.forward), _impl(Entry.fake), case, len(case.computed))
        if own is not None and own.saving is not None:
            count = len(case.computed) + len(own.saving.intermediates)
            self._saving = _operator("save", _impl(Entry.forward_and_save), _impl(Entry.fake_and_saved), case, count)
        if own is not None:
            self._backward = _backward_operator(case)
        with _lock:
            known = _entries.get(self.key)
            if known is None or known.case.kernel.cls is not case.kernel.cls:
                _entries[self.key] = entry
        self.used_at(case.path)

    def used_at(self, path: str) -> None:
        """Note a call that uses the entry, for errors."""
        with _lock:
            _entries[self.key].paths[path] = None

    @property
    def has_own_backward(self) -> bool:
        """Whether `differentiable` may be called."""
        return self._own is not None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its operators."""
        return tuple(str(op) for op in (self._forward, getattr(self, "_saving", None), getattr(self, "_backward", None)) if op is not None)

    def __call__(self, *inputs: Any) -> Any:
        """Run the kernel, without a gradient."""
        outputs = self._forward(*inputs, self.key)
        return outputs if self._single else self._all(outputs if isinstance(outputs, tuple | list) else (outputs,), inputs)

    def differentiable(self, *inputs: Any) -> Any:
        """Run the kernel; the gradient is its own."""
        outputs = _Own.apply(self, *inputs)  # type: ignore[no-untyped-call]
        return outputs[0] if self._single else self._all(outputs, inputs)

    def save(self, inputs: Sequence[Any]) -> tuple[tuple[torch.Tensor, ...], list[torch.Tensor]]:
        """Return the computed outputs, and the tensors that `gradients` needs."""
        assert self._own is not None
        saving, count = self._own.saving, len(self._case.computed)
        if saving is None:
            outputs = self._forward(*inputs, self.key)
            return (outputs if isinstance(outputs, tuple) else (outputs,)), [value for value in inputs if isinstance(value, torch.Tensor)]
        results = self._saving(*inputs, self.key)
        results = results if isinstance(results, tuple) else (results,)
        outputs = results[:count]
        return outputs, [*(inputs[n] for n in saving.inputs), *(outputs[n] for n in saving.outputs), *results[count:]]

    def numbers(self, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Return what `gradients` needs besides tensors."""
        assert self._own is not None
        return self._own.symbols.numbers(inputs)

    def gradients(self, incoming: Sequence[torch.Tensor], saved: Sequence[torch.Tensor], sizes: Any, numbers: Any) -> list[torch.Tensor]:
        """Return one gradient per input that needs one."""
        found: list[torch.Tensor] = self._backward(list(incoming), list(saved), sizes, numbers, self.key)
        return found

    def _all(self, computed: Sequence[torch.Tensor], inputs: Sequence[Any]) -> tuple[Any, ...]:
        """All outputs: those that are inputs are handed through."""
        remaining, passed = iter(computed), self._case.passed
        return tuple(inputs[passed[n]] if n in passed else next(remaining) for n in range(len(self._case.outputs)))


class _Own(torch.autograd.Function):
    """The autograd node around an opaque kernel with a backward."""

    @staticmethod
    def forward(ctx: Any, opaque: Opaque, *inputs: Any) -> tuple[torch.Tensor, ...]:
        outputs, saved = opaque.save(inputs)
        ctx.opaque, ctx.count = opaque, len(inputs)
        ctx.sizes, ctx.numbers = opaque.numbers(inputs)
        ctx.save_for_backward(*saved)
        case = opaque._case
        ctx.mark_non_differentiable(*(output for n, output in enumerate(outputs) if n not in case.differentiable))
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        case = ctx.opaque._case
        incoming = [gradients[n] for n in case.differentiable]
        found = ctx.opaque.gradients(incoming, ctx.saved_tensors, ctx.sizes, ctx.numbers)
        if torch.is_grad_enabled():
            found = _Last.apply(f"{case.kernel.identity} at {case.path}", *found, *incoming, *ctx.saved_tensors)[: len(found)]  # type: ignore[no-untyped-call]
        result: list[Any] = [None] * (1 + ctx.count)
        for position, gradient in zip(case.wanted, found, strict=True):
            result[1 + position] = gradient
        return tuple(result)


class _Last(torch.autograd.Function):
    """A gradient that has none itself."""

    @staticmethod
    def forward(ctx: Any, who: str, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.who = who
        return tuple(value.view_as(value) for value in values)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise FxKernelsError(
            f"the backward of kernel {ctx.who} cannot be differentiated again: a second derivative of it is not known\n"
            "  backward='recompute' takes the gradient of the original layer instead, which can be."
        )


# --- operators ----------------------------------------------------------------------------------------------------------------------------


@functools.cache
def _impl(method: Callable[..., Sequence[torch.Tensor]]) -> Callable[..., Any]:
    """An operator's function from its arguments, of which the last names the entry, to its results."""

    def implementation(*arguments: Any) -> Any:
        entry = _entry(arguments[-1])
        try:
            results = method(entry, arguments[:-1])
        except KernelRuntimeError as error:
            raise entry.located(error) from error.__cause__
        return results[0] if len(results) == 1 else tuple(results)

    return implementation


def _entry(key: str) -> Entry:
    entry = _entries.get(key)
    if entry is None:
        raise FxKernelsError(
            f"a compiled graph calls kernel entry {key!r}, which this process does not know\n"
            "  Compiled code is only valid in a process that has compiled the model with the same mapping; compile it here."
        )
    return entry


def _operator(role: str, implementation: Callable[..., Any], fake: Callable[..., Any], case: KernelCase, results: int) -> Any:
    arguments = kinds(case.inputs)
    name = operator_name(case.kernel, role, *arguments, str(results))
    given = "".join(f"{kind} a{n}, " for n, kind in enumerate(arguments))
    returned = "Tensor" if results == 1 else f"({', '.join(['Tensor'] * results)})"
    return _registered(name, f"({given}str entry) -> {returned}", implementation, fake)


def _backward_operator(case: KernelCase) -> Any:
    name = operator_name(case.kernel, "backward", *kinds(case.inputs))
    schema = "(Tensor[] gradients, Tensor[] saved, SymInt[] sizes, float[] numbers, str entry) -> Tensor[]"

    def implementation(gradients: Any, saved: Any, sizes: Any, numbers: Any, key: str) -> list[torch.Tensor]:
        own = _entry(key).own
        assert own is not None
        return own.backward(gradients, saved, sizes, numbers)

    def fake(gradients: Any, saved: Any, sizes: Any, numbers: Any, key: str) -> list[torch.Tensor]:
        own = _entry(key).own
        assert own is not None
        return [layout.empty(sizes, gradients[0]) for layout in own.gradients]

    return _registered(name, schema, implementation, fake)


@functools.cache
def _library() -> torch.library.Library:
    return torch.library.Library(_NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]


def _registered(name: str, schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    with _lock:
        if name not in _operators:
            library = _library()
            library.define(name + schema, tags=_TAGS)  # type: ignore[no-untyped-call]
            library.impl(name, implementation, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
            # Without it torch puts a boxed fallback around each call, and switches autograd off inside, where a forward has to record.
            library.impl(name, torch.library.fallthrough_kernel, "Autograd")  # type: ignore[no-untyped-call]
            torch.library.register_fake(f"{_NAMESPACE}::{name}", fake, lib=library)
            _operators[name] = getattr(getattr(torch.ops, _NAMESPACE), name).default
        return _operators[name]


def _key(entry: Entry, case: KernelCase) -> str:
    """Equal for entries of which one may stand for the other."""
    own, binding = entry.own, case.binding
    parts = [
        operator_name(case.kernel),
        text_of_state(binding.state),
        text_of_value((binding.args, binding.kwargs, binding.tensors, binding.training)),
        text_of_graph(case.reference),
        text_of_values(case.inputs),
        text_of_values(case.outputs),
        repr((sorted(case.passed.items()), case.autocast, sorted(entry.kept))),
        repr((entry.repairs.copied_inputs, entry.repairs.reordered_outputs)),
    ]
    if own is not None:
        parts.append(text_of_value((own.saving, own.gradients, own.overwritten_gradients, own.overwritten_saved)))
    return digest(*parts)


def without_metadata(reference: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of a reference that keeps nothing of its capture alive."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(reference.graph, {}))
    for node in graph.nodes:
        node.meta = {}
    return fx.GraphModule(reference, graph, class_name="Reference")
