"""The backward of an opaque kernel as an operator: the kernel's own, from what its forward saved, or from its forward run again.

An operator returns tensors and keeps nothing. So the forward of a kernel runs here on leaves of its own; the autograd graph that it leaves
behind is emptied of its tensors and kept as a template, and the tensors go out as further outputs of the operator. The backward operator
gets them back, puts them into the template of the same sizes and runs it.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from ...errors import KernelRuntimeError
from .kernel_case import KernelCase, Run, Tools
from .layouts import Layout, Symbols, kinds
from .memory import clone, clone_at, separated, span, storage_of
from .output_order import Order, laid_out

_MOST_TEMPLATES = 4096


@dataclass(frozen=True, slots=True)
class Source:
    """Where a saved tensor comes from: an input, an output or an intermediate of the forward.

    Args:
        kind: Which of the three.
        index: Its position among those.
        view: Sizes, strides and offset, if it is a part of that tensor.
    """

    kind: str
    index: int
    view: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True)
class Saving:
    """What the backward is given: the same for all sizes.

    Args:
        inputs: Positions of the inputs that it needs.
        outputs: Positions of the outputs that it needs.
        intermediates: The other tensors that the forward saves.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    intermediates: tuple[Layout, ...]

    def place(self, source: Source) -> int:
        """Return the position of a source among the tensors that the backward is given."""
        if source.kind == "input":
            return self.inputs.index(source.index)
        if source.kind == "output":
            return len(self.inputs) + self.outputs.index(source.index)
        return len(self.inputs) + len(self.outputs) + source.index


@dataclass(slots=True)
class Recorded:
    """One run of a kernel's forward, and the graph that it left behind."""

    outputs: tuple[torch.Tensor, ...]
    leaves: list[torch.Tensor]
    tape: Any
    saved: Any
    sources: tuple[Source, ...] = ()
    intermediates: tuple[torch.Tensor, ...] = ()
    signature: Hashable = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def describe(self, inputs: Sequence[Any]) -> None:
        """Say where the saved tensors come from, and what else the graph holds.

        Raises:
            Tools.Indescribable: If that cannot be told.
        """
        self.sources, self.intermediates = _classified(self.saved.tensors, inputs, self.outputs)
        metadata = tuple((tuple(t.shape), t.stride(), t.dtype) for t in self.intermediates)
        self.signature = (self.sources, metadata, self.tape.signature(self.saved))

    def empty(self) -> None:
        """Let go of every tensor: what stays is the graph."""
        self.saved.tensors = []
        self.tape.let_go()
        for leaf in self.leaves:
            leaf.data = leaf.new_empty(0)
        self.outputs, self.intermediates, self.leaves = (), (), []


def record(run: Run, inputs: Sequence[Any], wanted: Sequence[int], tools: Tools) -> Recorded:
    """Run a kernel on leaves over the inputs' memory, of which `wanted` need a gradient."""
    values = [value.detach() if isinstance(value, torch.Tensor) else value for value in inputs]
    leaves = [values[position].requires_grad_() for position in wanted]
    saved = tools.SavedTensors()
    with tools.recording_autograd():
        with saved_tensors_hooks(saved.pack, saved.unpack):
            outputs = run(*values)
        return Recorded(outputs, leaves, tools.Tape(outputs, leaves), saved)


@dataclass(frozen=True, eq=False)
class OwnBackward:
    """A kernel's own gradient, for the two operators of an entry.

    Args:
        case: The kernel and the form of call.
        run: Runs the kernel.
        symbols: The symbols in the sizes of its inputs.
        gradients: What the gradients of `case.wanted` are like.
        saving: What the forward saves; None if the backward runs the forward again.
        orders: Of each incoming gradient, the order in which its dimensions lie in memory when the kernel gets it: that of the output.
            Autograd promises no strides, and kernels that go by pointers take those of their outputs for granted.
        overwritten_gradients: Positions of incoming gradients that the kernel's backward overwrites.
        overwritten_saved: Positions among the saved tensors of those that it overwrites.
        tools: The private torch APIs.
    """

    case: KernelCase
    run: Run
    symbols: Symbols
    gradients: tuple[Layout, ...]
    saving: Saving | None
    orders: tuple[Order, ...]
    overwritten_gradients: tuple[int, ...]
    overwritten_saved: tuple[int, ...]
    tools: Tools
    _templates: dict[Hashable, Recorded] = field(default_factory=dict)

    def forward(self, inputs: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        """Run the kernel; return its outputs and the intermediates that its backward needs."""
        assert self.saving is not None
        recorded = record(self.run, inputs, self.case.wanted, self.tools)
        try:
            recorded.describe(inputs)
        except self.tools.Indescribable as error:
            raise self._unlike(str(error)) from None
        sizes, numbers = self.symbols.numbers(inputs)
        key = (*sizes, *numbers)
        template = self._templates.get(key)
        if template is not None and template.signature != recorded.signature:
            raise self._unlike("it did something else for inputs of equal sizes before")
        if template is None and (problem := self._unexpected(recorded, sizes)) is not None:
            raise self._unlike(problem)
        outputs = separated([output.detach() for output in recorded.outputs], inputs)
        results = (*outputs, *recorded.intermediates)
        if template is None:
            recorded.empty()
            if len(self._templates) >= _MOST_TEMPLATES:
                self._templates.pop(next(iter(self._templates)))
            self._templates[key] = recorded
        return results

    def backward(self, gradients: Sequence[torch.Tensor], saved: Sequence[torch.Tensor], sizes: Any, numbers: Any) -> list[torch.Tensor]:
        """Return the gradients of `case.wanted`.

        Args:
            gradients: One per differentiable output.
            saved: What the forward saved; all tensors among the inputs, if the forward is run again.
            sizes: Values of the symbols, and the inputs that are integers.
            numbers: The inputs that are floating-point numbers.
        """
        gradients = [laid_out(gradient, order) for gradient, order in zip(gradients, self.orders, strict=True)]
        gradients = clone_at(self.overwritten_gradients, gradients)
        given = clone_at(self.overwritten_saved, saved)
        with torch.no_grad():
            if self.saving is None:
                values = self._inputs(given, sizes, numbers)
                recorded = record(self.run, values, self.case.wanted, self.tools)
                found = recorded.tape.backward(self._of_all_outputs(gradients))
            else:
                found = self._run_template((*sizes, *numbers), gradients, given)
            fitted = self._fitted(found, sizes, gradients[0])
        return separated(fitted, [*gradients, *saved])

    def _run_template(self, key: Hashable, gradients: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
        template = self._templates.get(key)
        if template is None:
            raise self._unlike("its forward has not run with these sizes in this process")
        with template.lock:
            template.saved.tensors = [self._saved(source, given) for source in template.sources]
            try:
                return list(template.tape.backward(self._of_all_outputs(gradients)))
            finally:
                template.saved.tensors = []

    def _saved(self, source: Source, given: Sequence[torch.Tensor]) -> torch.Tensor:
        assert self.saving is not None
        tensor = given[self.saving.place(source)]
        if source.view is None:
            return tensor
        sizes, strides, offset = source.view
        return tensor.as_strided(sizes, strides, tensor.storage_offset() + offset)

    def _of_all_outputs(self, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
        full: list[torch.Tensor | None] = [None] * len(self.case.computed)
        for position, gradient in zip(self.case.differentiable, gradients, strict=True):
            full[position] = gradient
        return full

    def _inputs(self, saved: Sequence[torch.Tensor], sizes: Sequence[int], numbers: Sequence[float]) -> list[Any]:
        """The inputs again, from the tensors among them and the rest."""
        tensors: Iterator[Any] = iter(saved)
        rest: Iterator[Any] = iter(numbers)
        integers: Iterator[Any] = iter(sizes[len(self.symbols.symbols) :])
        return [
            next(tensors) if kind == "Tensor" else next(rest) if kind == "float" else next(integers) for kind in kinds(self.case.inputs)
        ]

    def _fitted(self, found: Sequence[torch.Tensor | None], sizes: Sequence[int], near: torch.Tensor) -> list[torch.Tensor]:
        """The gradients with the strides that the compiler was told of."""
        fitted = []
        for layout, gradient in zip(self.gradients, found, strict=True):
            if gradient is not None and layout.fits(gradient, sizes):
                fitted.append(gradient)
                continue
            empty = layout.empty(sizes, near)
            fitted.append(empty.zero_() if gradient is None else empty.copy_(gradient))
        return fitted

    def _unexpected(self, recorded: Recorded, sizes: Sequence[int]) -> str | None:
        """How a run differs from what the rehearsal has shown."""
        saving = self.saving
        assert saving is not None
        if len(recorded.intermediates) != len(saving.intermediates):
            return f"it saves {len(recorded.intermediates)} tensors of its own, and {len(saving.intermediates)} when it was rehearsed"
        for tensor, layout in zip(recorded.intermediates, saving.intermediates, strict=True):
            if not layout.fits(tensor, sizes):
                return f"it saves a tensor of {list(tensor.shape)} where {layout.shape(sizes)} was foreseen"
        used = {(source.kind, source.index) for source in recorded.sources if source.kind != "intermediate"}
        if not used <= {*(("input", n) for n in saving.inputs), *(("output", n) for n in saving.outputs)}:
            return "it saves inputs or outputs that it did not save when it was rehearsed"
        return None

    def _unlike(self, problem: str) -> KernelRuntimeError:
        cause = RuntimeError(
            f"its backward depends on the values of its inputs: {problem}. backward='recompute' uses the layer's own gradient"
        )
        return KernelRuntimeError(self.case.path, self.case.kernel.identity, cause)


def _classified(
    tensors: Sequence[torch.Tensor], inputs: Sequence[Any], outputs: Sequence[torch.Tensor]
) -> tuple[tuple[Source, ...], tuple[torch.Tensor, ...]]:
    """Where each saved tensor comes from, and those that come from nowhere, without repetition and apart from each other."""
    bases: dict[int, list[tuple[str, int, torch.Tensor]]] = {}
    for kind, values in (("input", inputs), ("output", outputs)):
        for index, value in enumerate(values):
            if isinstance(value, torch.Tensor):
                bases.setdefault(storage_of(value), []).append((kind, index, value))
    sources: list[Source] = []
    own: list[torch.Tensor] = []
    for tensor in tensors:
        known = bases.setdefault(storage_of(tensor), [])
        source = next((s for s in (_part(tensor, *base) for base in known) if s is not None), None)
        if source is None:
            source = Source("intermediate", len(own))
            # The second of two that share their memory, or one that reaches beyond an input: an operator's outputs share none.
            own.append(clone(tensor) if known else tensor.detach())
            known.append(("intermediate", source.index, tensor))
        sources.append(source)
    return tuple(sources), tuple(own)


def _part(tensor: torch.Tensor, kind: str, index: int, base: torch.Tensor) -> Source | None:
    """The source of a tensor that lies inside another one's memory, or None if it does not."""
    if tensor.dtype is not base.dtype:
        return None
    offset = tensor.storage_offset() - base.storage_offset()
    if offset == 0 and tensor.shape == base.shape and tensor.stride() == base.stride():
        return Source(kind, index)
    if offset < 0 or offset + span(tensor) > span(base):
        return None
    return Source(kind, index, (tuple(tensor.shape), tensor.stride(), offset))
