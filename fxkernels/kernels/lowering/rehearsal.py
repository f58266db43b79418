"""One kernel run for real before it is used: on random tensors of the call's sizes, to see what no schema says of it.

Which inputs it overwrites, whether its output is what the layer returns, whether a gradient flows, what its backward needs and writes. It
never sees the user's tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ...errors import KernelRuntimeError
from ...passes.miss import Miss
from ..samples import Inputs, Sample, TensorSpec, random_like, specs_of
from .kernel_case import KernelCase, Run, Tools
from .layouts import Choice, Layout, Symbols, choices
from .memory import storage_of
from .output_order import Order, order_of
from .own_backward import OwnBackward, Recorded, Saving, Source, record
from .repairs import Repairs


@dataclass(frozen=True)
class Rehearsal:
    """What the runs have shown.

    Args:
        repairs: What makes the kernel right.
        kept: Positions of the outputs that it keeps for itself and returns again.
        own: The kernel's backward, where the call needs a gradient and the kernel has one.
        again: Why its backward runs its forward again, as a phrase.
    """

    repairs: Repairs = Repairs()
    kept: frozenset[int] = frozenset()
    own: OwnBackward | None = None
    again: str | None = None


def rehearse(case: KernelCase, gradient: bool, tools: Tools, known: Repairs) -> Rehearsal | Miss | str:
    """Return what the kernel does, a miss if it does what no kernel may, or why it cannot be rehearsed, as a phrase.

    Args:
        case: The kernel and the form of call.
        gradient: Whether the kernel's backward is asked for.
        tools: The private torch APIs.
        known: The copied inputs and reordered outputs that are known already.
    """
    symbols = Symbols.of(case.inputs)
    found = choices(case.inputs, symbols)
    if found is None:
        return "a size of its inputs is known only when it runs"
    if any(isinstance(spec, TensorSpec) and 0 in spec.sizes for spec in specs_of(case.inputs, found[0])):
        return "an input has no elements"
    try:
        stage = _Stage(case, symbols, found, tools, known)
        shown: Rehearsal | Miss = tools.run_for_real(lambda: _rehearsed(stage, gradient), [case.device])
    except torch.OutOfMemoryError:
        return "there is no memory to rehearse it"
    return shown


@dataclass
class _Stage:
    case: KernelCase
    symbols: Symbols
    choices: list[Choice]
    tools: Tools
    repairs: Repairs
    kept: frozenset[int] = frozenset()

    def inputs(self, choice: int = 0, seed: int = 0) -> list[Any]:
        specs = specs_of(self.case.inputs, self.choices[choice])
        # Each has memory of its own: the compiler decides whether inputs of an operator share theirs.
        apart: Inputs = tuple(replace(spec, storage=n, offset=0) if isinstance(spec, TensorSpec) else spec for n, spec in enumerate(specs))
        return Sample.of(apart).fill(seed).views()

    def rehearsal(self, own: OwnBackward | None = None, again: str | None = None) -> Rehearsal:
        return Rehearsal(self.repairs, self.kept, own, again)

    def without_gradient(self, reason: str) -> Rehearsal:
        return Rehearsal(replace(self.repairs, recompute=reason), self.kept)


def _rehearsed(stage: _Stage, gradient: bool) -> Rehearsal | Miss:
    try:
        miss = _forward(stage)
    except KernelRuntimeError as error:
        if isinstance(error.__cause__, torch.OutOfMemoryError):
            raise error.__cause__ from None
        data = {"kernel": stage.case.kernel.identity, "error": _described(error)}
        return Miss("crash", "{kernel} raises on random inputs of the call's sizes: {error}", data)
    if miss is not None:
        return miss
    if not gradient:
        return stage.rehearsal()
    try:
        return _backward(stage)
    except (KernelRuntimeError, _BackwardFailed) as error:
        if isinstance(error.__cause__, torch.OutOfMemoryError):
            raise error.__cause__ from None
        return stage.without_gradient(f"its backward raises {_described(error)}")


# --- forward ------------------------------------------------------------------------------------------------------------------------------


def _forward(stage: _Stage) -> Miss | None:
    """See what the forward writes and whether it returns what it keeps; a miss if its output is not like the layer's."""
    case, inputs, run = stage.case, stage.inputs(), stage.case.runner()
    before = _copies(inputs)
    with torch.no_grad():
        outputs = run(*inputs)
        for position, output in zip(case.computed, outputs, strict=True):
            if (miss := _differs(stage, position, output)) is not None:
                return miss
        stage.repairs |= Repairs(tuple(_changed(before, inputs)))
        again = run(*stage.inputs(seed=1))
        stage.kept = frozenset(n for n, pair in enumerate(zip(outputs, again, strict=True)) if storage_of(pair[0]) == storage_of(pair[1]))
    return None


def _differs(stage: _Stage, position: int, output: torch.Tensor) -> Miss | None:
    example = stage.case.outputs[position]
    (spec,) = specs_of([example], stage.choices[0])
    sizes, strides = list(spec.sizes), list(spec.strides)
    same = (output.dtype, output.device.type, list(output.shape)) == (example.dtype, example.device.type, sizes)
    if same and all(size == 1 or one == other for size, one, other in zip(sizes, output.stride(), strides, strict=True)):
        return None
    if same and (order := order_of(example)) is not None:
        stage.repairs |= Repairs(reordered_outputs=((position, order),))
        return None
    data = {
        "kernel": stage.case.kernel.identity,
        "position": position,
        "got": shown(output.dtype, list(output.shape), list(output.stride()), output.device),
        "wanted": shown(example.dtype, sizes, strides, example.device),
    }
    return Miss("output_metadata", "output {position} of {kernel} is {got}, the layer's is {wanted}", data)


# --- backward -----------------------------------------------------------------------------------------------------------------------------


class _BackwardFailed(Exception):
    """The kernel's backward raised; the cause is what."""


@dataclass
class _Run:
    """One forward, and what its backward did."""

    inputs: list[Any]
    recorded: Recorded
    gradients: list[torch.Tensor | None] = field(default_factory=list)
    overwritten_gradients: list[int] = field(default_factory=list)
    overwritten_inputs: list[int] = field(default_factory=list)
    overwritten_saved: list[int] = field(default_factory=list)


def _backward(stage: _Stage) -> Rehearsal:
    run = stage.case.runner(stage.repairs)
    runs = [_recorded(stage, run, choice) for choice in range(len(stage.choices))]
    without = _why_no_gradient(stage, runs[0].recorded)
    if without is None:
        again = _why_again(stage, run, runs)
        for one in runs:
            _run_backward(stage, one)
        without = _why_not_these(stage, runs[0])
    if without is not None:
        return stage.without_gradient(without)
    saving = _saving(stage, runs) if again is None else None
    if again is None and saving is None:
        again = "the sizes of what it saves are no formula of its inputs' sizes"
    layouts = _gradient_layouts(stage, runs)
    if layouts is None:
        return stage.without_gradient("the strides of its gradients are no formula of its inputs' sizes")
    own = OwnBackward(
        stage.case.light,
        run,
        stage.symbols,
        layouts,
        saving,
        _orders_of_incoming(stage.case),
        tuple(sorted({n for one in runs for n in one.overwritten_gradients})),
        _overwritten(stage, runs, saving),
        stage.tools,
    )
    return stage.rehearsal(own, again)


def _recorded(stage: _Stage, run: Run, choice: int, seed: int = 0) -> _Run:
    inputs = stage.inputs(choice, seed)
    return _Run(inputs, record(run, inputs, stage.case.wanted, stage.tools))


def _why_no_gradient(stage: _Stage, recorded: Recorded) -> str | None:
    if not all(recorded.outputs[n].requires_grad for n in stage.case.differentiable):
        return "it returns a detached output"
    return "its operators have no backward" if recorded.tape.is_cut() else None


def _why_again(stage: _Stage, run: Run, runs: Sequence[_Run]) -> str | None:
    """Why the tensors that the forward saves cannot be handed to a backward operator."""
    tensors = [value for value in stage.case.inputs if isinstance(value, torch.Tensor)]
    if any(not (value.is_floating_point() or value.is_complex()) and value.dtype is not torch.bool for value in tensors):
        return "what it saves may depend on the integers among its inputs"
    if stage.kept:
        return "it returns a tensor that it keeps for itself"
    second = _recorded(stage, run, 0, seed=1)
    try:
        for one in (*runs, second):
            one.recorded.describe(one.inputs)
    except stage.tools.Indescribable as error:
        return f"it keeps more than tensors that torch knows of: {error}"
    first, other = runs[0].recorded, second.recorded
    if first.signature != other.signature:
        return "what it saves depends on its inputs' values"
    if {storage_of(tensor) for tensor in first.intermediates} & {storage_of(tensor) for tensor in other.intermediates}:
        return "it saves a tensor that it keeps for itself"
    sources = [[(source.kind, source.index) for source in one.recorded.sources] for one in runs]
    return None if all(each == sources[0] for each in sources) else "what it saves depends on its inputs' sizes"


def _run_backward(stage: _Stage, one: _Run) -> None:
    recorded = one.recorded
    incoming: list[torch.Tensor | None] = [None] * len(recorded.outputs)
    for n in stage.case.differentiable:
        incoming[n] = random_like(recorded.outputs[n], n)
    given = [incoming[n] for n in stage.case.differentiable]
    before = [_copies(values) for values in (given, one.inputs, recorded.saved.tensors)]
    with torch.no_grad():
        try:
            one.gradients = recorded.tape.backward(incoming)
        except Exception as error:  # whatever a kernel raises
            raise _BackwardFailed from error
    changed = [_changed(*pair) for pair in zip(before, (given, one.inputs, recorded.saved.tensors), strict=True)]
    one.overwritten_gradients, one.overwritten_inputs, one.overwritten_saved = changed


def _why_not_these(stage: _Stage, one: _Run) -> str | None:
    """Why the kernel's gradients cannot be the reference's: one is missing."""
    missing = [n for n, gradient in enumerate(one.gradients) if gradient is None]
    if not missing:
        return None
    expected = record(stage.case.reference_outputs, one.inputs, stage.case.wanted, stage.tools)
    incoming = [random_like(output) if output.requires_grad else None for output in expected.outputs]
    with torch.no_grad():
        theirs = expected.tape.backward(incoming)
    names = [stage.case.names[stage.case.wanted[n]] for n in missing if theirs[n] is not None]
    return f"it gives no gradient for {', '.join(names)}" if names else None


def _saving(stage: _Stage, runs: Sequence[_Run]) -> Saving | None:
    values = _sizes_of_runs(stage, runs)
    layouts = [Layout.through(tensors, values) for tensors in zip(*(one.recorded.intermediates for one in runs), strict=True)]
    if None in layouts:
        return None
    used: dict[str, set[int]] = {"input": set(), "output": set(), "intermediate": set()}
    for source in runs[0].recorded.sources:
        used[source.kind].add(source.index)
    return Saving(tuple(sorted(used["input"])), tuple(sorted(used["output"])), tuple(layouts))  # type: ignore[arg-type]


def _gradient_layouts(stage: _Stage, runs: Sequence[_Run]) -> tuple[Layout, ...] | None:
    values = _sizes_of_runs(stage, runs)
    layouts: list[Layout] = []
    for n, position in enumerate(stage.case.wanted):
        given = [one.gradients[n] for one in runs]
        tensors = [one.inputs[position] if gradient is None else gradient for gradient, one in zip(given, runs, strict=True)]
        layout = Layout.through([_dense(tensor) for tensor in tensors], values)
        if layout is None:
            return None
        own = [stage.symbols.formula(size) for size in stage.case.inputs[position].shape]
        sizes = [known or found for known, found in zip(own, layout.sizes, strict=True)]
        layouts.append(replace(layout, sizes=tuple(sizes)))
    return tuple(layouts)


def _orders_of_incoming(case: KernelCase) -> tuple[Order, ...]:
    """In which order the dimensions of each incoming gradient are to lie: as those of the output, or contiguous where that has gaps."""
    outputs = [case.outputs[case.computed[n]] for n in case.differentiable]
    return tuple(order_of(output) or tuple(range(output.dim())) for output in outputs)


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or its like without gaps and overlaps: those of an expanded gradient are not worth keeping."""
    return tensor if torch.empty_like(tensor).stride() == tensor.stride() else tensor.contiguous()


def _overwritten(stage: _Stage, runs: Sequence[_Run], saving: Saving | None) -> tuple[int, ...]:
    """Positions, among the tensors that the backward operator gets, of those that the kernel's backward overwrites."""
    if saving is None:
        tensors = [n for n, value in enumerate(stage.case.inputs) if isinstance(value, torch.Tensor)]
        return tuple(sorted({tensors.index(n) for one in runs for n in one.overwritten_inputs}))
    changed: set[Source] = {one.recorded.sources[n] for one in runs for n in one.overwritten_saved}
    return tuple(sorted({saving.place(source) for source in changed}))


def _sizes_of_runs(stage: _Stage, runs: Sequence[_Run]) -> list[list[Any]]:
    return [stage.symbols.numbers(one.inputs)[0] for one in runs]


# --- words and copies ---------------------------------------------------------------------------------------------------------------------


def shown(dtype: torch.dtype, sizes: list[int], strides: list[int], device: torch.device) -> str:
    """Return what a tensor is, for a sentence."""
    return f"{str(dtype).removeprefix('torch.')}{sizes} with strides {strides} on {device}"


def _described(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[0]}"


def _copies(values: Sequence[Any]) -> list[Any]:
    return [value.detach().clone() if isinstance(value, torch.Tensor) else value for value in values]


def _changed(before: Sequence[Any], after: Sequence[Any]) -> list[int]:
    pairs = enumerate(zip(before, after, strict=True))
    return [n for n, (old, new) in pairs if isinstance(new, torch.Tensor) and not torch.equal(_bits(old), _bits(new))]


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor so that equal means the same memory: a NaN equals itself."""
    tensor = tensor.detach()
    return torch.nan_to_num(tensor) if tensor.is_floating_point() else tensor
