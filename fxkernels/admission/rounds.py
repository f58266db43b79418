"""Runs of a kernel for one choice of sizes: other values each time, the same memory again, earlier outputs still in somebody's hands."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..kernels.lowering.autocast import autocast_to
from ..kernels.lowering.output_order import metadata, order_instead
from .evidence import Evidence
from .gradients import Run, RunContext
from .ledger import Ledger
from .memory import shared_memory
from .request import Inputs, Request, TensorSpec
from .running import Refused, Runner, Unprobed, described, refused, shown
from .samples import FAR, LARGE, LARGER, NORMAL, TINY, ZEROS, Sample, Style, elements_of
from .sizes import integer_highs
from .tolerances import Bounds, compare
from .truth import Truth
from .wide import rounding_dtype
from .wire import mapped

_TOO_MANY_FOR_FLOAT64 = 1 << 22
"""From this many elements on, half precision is compared with float32."""
_MANY_TO_KEEP = 1 << 20
"""Up to this many elements, what calls were given is looked at later."""
_SHIFT = 64
"""By how many elements the inputs of one round begin later in their storages."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the runs have shown of a kernel that is right.

    Args:
        cloned: Positions of inputs of which it has to get copies.
        detached: Whether no gradient flows through it.
        style: Values for which the layer stays finite; None if that is not known yet, nor the rest.
        dtypes: Those of the outputs.
        rounded: The coarsest dtype to which the layer rounds.
        relaid: Positions of the outputs that lie in memory in another way than the layer's.
    """

    cloned: frozenset[int] = frozenset()
    detached: bool = False
    style: Style | None = None
    dtypes: tuple[torch.dtype, ...] = ()
    rounded: torch.dtype | None = None
    relaid: frozenset[int] = frozenset()


class Rounds:
    """The runs for one choice of sizes.

    Args:
        request: What is to be shown.
        specs: The inputs.
        evidence: Where it is written down.
        before: What is known from other sizes.

    Raises:
        Unprobed: If no values are known for which the layer itself can be run.
    """

    def __init__(self, request: Request, specs: Inputs, evidence: Evidence, before: Shown) -> None:
        self.request, self.specs, self.evidence, self.before = request, specs, evidence, before
        highs = integer_highs(request.reference, specs)
        if isinstance(highs, str):
            raise Unprobed(highs)
        self._highs = highs
        self.cloned, self.detached, self.relaid = before.cloned, before.detached, before.relaid
        self.wanted = tuple(n for n, spec in enumerate(specs) if isinstance(spec, TensorSpec) and spec.requires_grad)
        self._style = before.style if before.style is not None else self._ordinary()
        self._dtypes, self._rounded = before.dtypes, before.rounded
        if before.style is None:
            self._look_at_reference()
        self.computed = tuple(n for n in range(len(self._dtypes)) if n not in request.passed)
        self._widest = self._widest_affordable()
        self._ledger = Ledger()
        evidence.sizes += [str(spec) for spec in specs if str(spec) not in evidence.sizes]

    @property
    def _context(self) -> RunContext:
        arguments = tuple(n for n, spec in enumerate(self.specs) if isinstance(spec, TensorSpec) and not spec.of_layer)
        return RunContext(self.request, self.wanted, self.computed, arguments, self.bounds, self._ledger, self.evidence)

    @property
    def gradient(self) -> bool:
        """Whether the kernel's own gradient is looked at."""
        return self.request.gradient and not self.detached

    def all(self) -> Shown:
        """Make all checks.

        Raises:
            Refused: By the first one that fails.
        """
        self._call_for_another_layer()
        self._find_out_what_it_writes()
        first = self._round(0, self._style)
        if self.gradient and first.is_detached():
            self._go_on_without_gradient()
            first = self._round(0, self._style)
        if self.gradient:
            first.several_backwards()
        one, other = self._round(1, self._style), self._round(2, self._style, shift=_SHIFT)
        if self.gradient:  # what one call keeps for its backward is not another's
            one.backward_among_others()
            other.backward()
        self._same_memory_again()
        self._other_modes()
        self._special_values()
        if self.gradient:
            self._later_writes()
        self._round_with_backward(0, self._style)
        return self._shown()

    def one(self) -> Shown:
        """Compare values and gradients once."""
        self._ledger = Ledger(keeps=False)
        self._round_with_backward(0, self._style)
        return self._shown()

    def _shown(self) -> Shown:
        return Shown(self.cloned, self.detached, self._style, self._dtypes, self._rounded, self.relaid)

    def bounds(self, dtype: torch.dtype) -> Bounds:
        """Return what a result of this dtype may be off by."""
        tensors = [spec for spec in self.specs if isinstance(spec, TensorSpec)]
        rows = [spec.span // max(spec.sizes, default=1) for spec in tensors]
        terms = max([*rows, *(size for spec in tensors for size in spec.sizes)], default=1)
        dtypes = [each for each in (dtype, self._rounded) if each is not None and each.is_floating_point]
        return Bounds.of(max(dtypes, key=lambda each: torch.finfo(each).eps, default=torch.float32), terms)

    # --- one run ---

    def _round_with_backward(self, seed: int, style: Style) -> None:
        found = self._round(seed, style)
        if self.gradient:
            found.backward()

    def _round(self, seed: int, style: Style, *, shift: int = 0, gradient: bool | None = None, compiling: bool = False) -> Run:
        gradient = self.gradient if gradient is None else gradient
        sample = Sample.of(self.specs, shift).fill(seed, style, self._highs)
        inputs = sample.inputs(gradient=gradient)
        found = self._checked(inputs, sample, style, gradient, compiling)
        self._refuse_writes_besides(sample)
        if elements_of(self.specs) <= _MANY_TO_KEEP:
            self._ledger.keep(inputs, "{name}, which a call was given", self.request.names)
        return found

    def _checked(self, inputs: list[Any], sample: Sample, style: Style, gradient: bool, compiling: bool = False) -> Run:
        outputs = self._runner()(inputs, gradient=gradient, compiling=compiling)
        truth = self._truth(sample.views(), gradient)
        self._check_metadata(outputs, truth, gradient)
        self._check_memory(outputs, inputs, truth)
        for number in self.computed:
            self._compare(number, outputs[number], truth, style)
        self._ledger.check()
        self._ledger.keep([outputs[number] for number in self.computed], "output {name} of an earlier one", self.computed)
        return Run(self._context, inputs, outputs, truth, style)

    def _runner(self, cloned: frozenset[int] | None = None) -> Runner:
        self.evidence.runs += 1
        return Runner(self.request, len(self._dtypes), self.cloned if cloned is None else cloned)

    def _compare(self, number: int, output: torch.Tensor, truth: Truth, style: Style) -> None:
        exact, what = truth.outputs[number], f"output {number}"
        if not (exact.is_floating_point() or exact.is_complex()):
            if style is self._style and _differing(output, truth.own.outputs[number]) > self._undecided(truth, number):
                raise refused("numerics", "{what} is another than the layer's, for {values} values", what=what, values=style.name)
            return
        found = compare(output, exact, self.bounds(output.dtype), lambda: truth.output_of_layer(number))
        if truth.why_not_wide is not None:
            self.evidence.note(f"compared with the layer in its own dtype only: {truth.why_not_wide}")
        self.evidence.compared(what, found, style.name)
        if not found.agrees:
            data = {"error": found.error, "tolerance": found.tolerance, "values": style.name, "by": found.by}
            template = "{what} is off by {error:.2g} of the exact result ({by}), and may be by {tolerance:.2g}, for {values} values"
            raise refused("numerics", template, what=what, **data)

    def _undecided(self, truth: Truth, number: int) -> float:
        """Which part of an output of whole numbers may differ: where a rounding decides, as between equal values, either is right."""
        own = truth.own.outputs[number]
        share = max(_differing(own, other) for other in [*truth.output_of_layer(number)[1:], truth.outputs[number]])
        half = self._rounded is not None and torch.finfo(self._rounded).bits <= 16
        return 4 * share + (4 / max(own.numel(), 1) if half or share else 0.0)

    def _check_metadata(self, outputs: Sequence[torch.Tensor], truth: Truth, gradient: bool) -> None:
        for number in self.computed:
            if outputs[number].layout is not torch.strided:
                raise refused("output_metadata", "output {number} is {layout}", number=number, layout=outputs[number].layout)
            if outputs[number].requires_grad and not (gradient and truth.own.outputs[number].requires_grad):
                raise refused("gradient", "output {number} wants a gradient, and the layer's does not", number=number)
            wide, dtype = truth.outputs[number], self._dtypes[number]
            expected = wide if wide.dtype is dtype else torch.empty_strided(wide.shape, wide.stride(), dtype=dtype, device=wide.device)
            if metadata(outputs[number]) == metadata(expected):
                continue
            if order_instead(outputs[number], expected) is None:
                got, wanted = shown(outputs[number]), shown(expected)
                raise refused("output_metadata", "output {number} is {got}, the layer's is {wanted}", number=number, got=got, wanted=wanted)
            self.relaid |= {number}
            self.evidence.repair(f"output {number} lies in memory in another way than the layer's, and is copied")

    def _check_memory(self, outputs: Sequence[torch.Tensor], inputs: Sequence[Any], truth: Truth) -> None:
        for number in self.computed:
            for position, value in enumerate(inputs):
                if isinstance(value, torch.Tensor) and position not in self.cloned and shared_memory(outputs[number], value):
                    name = self.request.names[position]
                    raise refused("output_metadata", "output {number} shares memory with {name}", number=number, name=name)
            for other in self.computed[: self.computed.index(number)]:
                ours, theirs = (outputs[other], outputs[number]), (truth.outputs[other], truth.outputs[number])
                if shared_memory(*ours) and not shared_memory(*theirs):
                    raise refused("output_metadata", "outputs {other} and {number} share memory", other=other, number=number)

    def _refuse_writes_besides(self, sample: Sample) -> None:
        for position in sample.changed_besides():
            if position not in self.cloned:
                raise refused("mutates_input", "it writes to the memory around {name}", name=self.request.names[position])
        self._refuse_broken_fences(sample)

    def _refuse_broken_fences(self, sample: Sample) -> None:
        if any(memory.is_broken() for memory in sample.handed_out.values()):
            raise refused("mutates_input", "it writes before the begin or past the end of an input")

    def _same_memory_again(self) -> None:
        """Other values where the last ones were, as after an optimizer's step: what is kept by address is out of date."""
        sample = Sample.of(self.specs).fill(4, self._style, self._highs)
        inputs = sample.views(gradient=self.gradient)
        for seed in (4, 5):
            sample.fill(seed, self._style, self._highs)
            found = self._checked(inputs, sample, self._style, self.gradient)
            if self.gradient:
                found.backward()

    def _other_modes(self) -> None:
        """As a compiler traces it, and without gradients: operators run so, and so does what is recomputed."""
        self._round(7, self._style, compiling=True)
        if self.gradient:
            self._round(8, self._style, gradient=False)

    def _later_writes(self) -> None:
        for inputs in (True, False):
            self._round(6, self._style).backward_after_writes(inputs=inputs)
            self._ledger.forget()

    def _special_values(self) -> None:
        for style in (ZEROS, TINY, LARGER):
            if style is not LARGER or self._has_room(style):
                self._round_with_backward(3, style)
        if self._bears(FAR):
            self._round(3, FAR)
        large = next((style for style in LARGE if self._bears(style)), None)
        if large is not None:
            found = self._round(3, large)
            if self.gradient:  # where a softmax has but one value left, a gradient is what rounding leaves of large terms
                found.finite_backward()

    # --- what has to be known first ---

    def _find_out_what_it_writes(self) -> None:
        """A kernel that overwrites its arguments gets copies; the layer's own tensors are not its to write."""
        written: set[int] = set()
        for gradient in {self.gradient, False}:
            sample = Sample.of(self.specs).fill(0, self._style, self._highs)
            runner = self._runner(frozenset())
            runner(sample.inputs(gradient=gradient), gradient=gradient, tolerate_writes=True)
            self._refuse_broken_fences(sample)
            written |= runner.written
            written |= {position for position in sample.changed_besides() if not self.specs[position].of_layer}
        self.cloned |= written
        if written:
            names = ", ".join(self.request.names[position] for position in sorted(written))
            self.evidence.repair(f"it overwrites {names}, and gets copies")

    def _call_for_another_layer(self) -> None:
        """A layer with another epsilon comes first: what a kernel keeps of the first call that it ever gets is not this layer's."""
        request = self.request
        constants, args, kwargs = (mapped(values, float, lambda number: 2 * number) for values in _numbers_of(request))
        if (constants, args, kwargs) == _numbers_of(request):
            return
        other = replace(request, args=args, kwargs=kwargs, state=replace(request.state, constants=constants))
        inputs = Sample.of(self.specs).fill(9, self._style, self._highs).inputs(gradient=False)
        with contextlib.suppress(Refused, Unprobed):  # it need not take such numbers
            Runner(other, len(self._dtypes))(inputs, gradient=False, tolerate_writes=True)

    def _go_on_without_gradient(self) -> None:
        if self.request.training:
            raise refused("gradient", "its output is detached: no gradient flows through it")
        self.detached = True
        self.evidence.repair("no gradient flows through it: the reference's is recomputed")

    def _ordinary(self) -> Style:
        """Values for which the layer itself stays finite."""
        best, most = NORMAL[0], -1.0
        for style in NORMAL:
            share = min((_finite(output) for output in self._outputs_of_layer(0, style)), default=1.0)
            if share > most:
                best, most = style, share
            if share == 1.0:
                break
        if most < 0.5:
            raise Unprobed("the layer returns no finite numbers for random inputs")
        return best

    def _has_room(self, style: Style) -> bool:
        """Whether the layer stays far enough from the largest numbers for a gradient to be one."""
        outputs = [output for output in self._outputs_of_layer(3, style) if output.is_floating_point()]
        return all(float(output.abs().max()) < torch.finfo(output.dtype).max / 64 for output in outputs if output.numel())

    def _bears(self, style: Style) -> bool:
        return all(_finite(output) == 1.0 for output in self._outputs_of_layer(3, style))

    def _outputs_of_layer(self, seed: int, style: Style) -> Sequence[Any]:
        inputs = Sample.of(self.specs).fill(seed, style, self._highs).views()
        request = self.request
        try:
            return Truth(request.reference, inputs, (), autocast=request.autocast, device=request.device.type).own.outputs
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the layer objects to
            raise Unprobed(f"the layer itself raises on random inputs: {described(error)}") from error

    def _look_at_reference(self) -> None:
        inputs = Sample.of(self.specs).fill(0, self._style, self._highs).views()
        with torch.no_grad(), autocast_to(self.request.autocast, self.request.device.type):
            outputs, self._rounded = rounding_dtype(self.request.reference, inputs)
        self._dtypes = tuple(output.dtype for output in outputs)

    def _widest_affordable(self) -> torch.dtype:
        half = self._rounded is not None and torch.finfo(self._rounded).bits <= 16
        if not half or elements_of(self.specs) <= _TOO_MANY_FOR_FLOAT64:
            return torch.float64
        self.evidence.note("at the call's own sizes, the exact results are the reference's in float32")
        return torch.float32

    def _truth(self, inputs: Sequence[Any], gradient: bool) -> Truth:
        request, wanted = self.request, self.wanted if gradient else ()
        return Truth(request.reference, inputs, wanted, widest=self._widest, autocast=request.autocast, device=request.device.type)


def _numbers_of(request: Request) -> tuple[Any, Any, Any]:
    return request.state.constants, request.args, request.kwargs


def _differing(one: torch.Tensor, other: torch.Tensor) -> float:
    """Which part of two tensors differs."""
    return float((one != other).double().mean()) if one.numel() else 0.0


def _finite(output: Any) -> float:
    """Which part of a result is finite."""
    if not isinstance(output, torch.Tensor) or not output.is_floating_point() or not output.numel():
        return 1.0
    return float(torch.isfinite(output).double().mean())
