"""All checks of a kernel at one choice of sizes: fresh values per run, reused buffers, and outputs of earlier runs kept alive."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx.node import map_aggregate

from ..kernels.lowering.autocast import autocast_to
from ..kernels.lowering.output_order import metadata, order_instead
from ..kernels.lowering.repairs import Repairs
from ..kernels.samples import FAR, LARGE, LARGER, NORMAL, TINY, ZEROS, Inputs, Sample, Style
from .gradients import Run
from .guarded_memory import GuardedInputs, shared_memory
from .oracle import Oracle, rounding_dtype
from .probe_case import ProbeCase, elements_of, integer_highs
from .runner import Context, Refused, Runner, Unprobed, described, refused, shown
from .tolerances import compare
from .verdict import Evidence

_TOO_MANY_FOR_FLOAT64 = 1 << 22
"""From this many elements on, half precision is compared with float32."""
_MANY_TO_KEEP = 1 << 20
"""Up to this many elements, what calls were given is looked at later."""
_SHIFT = 64
"""By how many elements the inputs of one round begin later in their storages."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What the checks have found out about a kernel that passes them.

    Args:
        repairs: What makes it right.
        style: Values for which the layer stays finite; None if that is not known yet, nor the rest.
        dtypes: Those of the outputs.
        rounded: The coarsest dtype to which the layer rounds.
    """

    repairs: Repairs = Repairs()
    style: Style | None = None
    dtypes: tuple[torch.dtype, ...] = ()
    rounded: torch.dtype | None = None


class Checks:
    """The checks at one choice of sizes.

    Args:
        case: What is to be shown.
        specs: The inputs.
        evidence: Where it is written down.
        before: What is known from other sizes.

    Raises:
        Unprobed: If no values are known for which the layer itself can be run.
    """

    def __init__(self, case: ProbeCase, specs: Inputs, evidence: Evidence, before: Findings) -> None:
        self.case, self.specs, self.evidence, self.before = case, specs, evidence, before
        highs = integer_highs(case.reference, specs)
        if isinstance(highs, str):
            raise Unprobed(highs)
        self._highs = highs
        self.repairs = before.repairs
        self._style = before.style if before.style is not None else self._ordinary()
        self._dtypes, self._rounded = (before.dtypes, before.rounded) if before.style is not None else self._dtypes_of_reference()
        self.computed = tuple(n for n in range(len(self._dtypes)) if n not in case.passed)
        self._widest = self._widest_affordable()
        self._context = Context(case, specs, self.computed, self._rounded, evidence)
        evidence.sizes += [str(spec) for spec in specs if str(spec) not in evidence.sizes]

    @property
    def gradient(self) -> bool:
        """Whether the kernel's own gradient is looked at."""
        return self.case.gradient and self.repairs.recompute is None

    def all(self) -> Findings:
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
        return self._findings()

    def one(self) -> Findings:
        """Compare values and gradients once."""
        self._context = replace(self._context, keeps=False)
        self._round_with_backward(0, self._style)
        return self._findings()

    def _findings(self) -> Findings:
        return Findings(self.repairs, self._style, self._dtypes, self._rounded)

    # --- one run ---

    def _round_with_backward(self, seed: int, style: Style) -> None:
        found = self._round(seed, style)
        if self.gradient:
            found.backward()

    def _round(self, seed: int, style: Style, *, shift: int = 0, gradient: bool | None = None, compiling: bool = False) -> Run:
        gradient = self.gradient if gradient is None else gradient
        sample = Sample.of(self.specs, shift).fill(seed, style, self._highs)
        guarded = GuardedInputs.of(sample, gradient=gradient)
        found = self._checked(guarded.values, sample, style, gradient, compiling)
        self._refuse_writes_besides(guarded)
        if elements_of(self.specs) <= _MANY_TO_KEEP:
            self._context.keep(guarded.values, "{name}, which a call was given", self.case.names)
        return found

    def _checked(self, inputs: list[Any], sample: Sample, style: Style, gradient: bool, compiling: bool = False) -> Run:
        outputs = self._runner()(inputs, gradient=gradient, compiling=compiling)
        oracle = self._oracle(sample.views(), gradient)
        self._check_metadata(outputs, oracle, gradient)
        self._check_memory(outputs, inputs, oracle)
        for number in self.computed:
            self._compare(number, outputs[number], oracle, style)
        self._context.check_kept()
        self._context.keep([outputs[number] for number in self.computed], "output {name} of an earlier one", self.computed)
        return Run(self._context, inputs, outputs, oracle, style)

    def _runner(self) -> Runner:
        self.evidence.runs += 1
        return Runner(self.case, len(self._dtypes), Repairs(self.repairs.copied_inputs))

    def _compare(self, number: int, output: torch.Tensor, oracle: Oracle, style: Style) -> None:
        exact, what = oracle.outputs[number], f"output {number}"
        if not (exact.is_floating_point() or exact.is_complex()):
            if style is self._style and _differing(output, oracle.own.outputs[number]) > self._undecided(oracle, number):
                raise refused("numerics", "{what} is another than the layer's, for {values} values", what=what, values=style.name)
            return
        found = compare(output, exact, self._context.bounds(output.dtype), lambda: oracle.output_of_layer(number))
        if oracle.why_not_wide is not None:
            self.evidence.note(f"compared with the layer in its own dtype only: {oracle.why_not_wide}")
        self.evidence.compared(what, found, style.name)
        if not found.agrees:
            data = {"error": found.error, "tolerance": found.tolerance, "values": style.name, "by": found.by}
            template = "{what} is off by {error:.2g} of the exact result ({by}), and may be by {tolerance:.2g}, for {values} values"
            raise refused("numerics", template, what=what, **data)

    def _undecided(self, oracle: Oracle, number: int) -> float:
        """Which part of an output of whole numbers may differ: where a rounding decides, as between equal values, either is right."""
        own = oracle.own.outputs[number]
        share = max(_differing(own, other) for other in [*oracle.output_of_layer(number)[1:], oracle.outputs[number]])
        half = self._rounded is not None and torch.finfo(self._rounded).bits <= 16
        return 4 * share + (4 / max(own.numel(), 1) if half or share else 0.0)

    def _check_metadata(self, outputs: Sequence[torch.Tensor], oracle: Oracle, gradient: bool) -> None:
        for number in self.computed:
            if outputs[number].layout is not torch.strided:
                raise refused("output_metadata", "output {number} is {layout}", number=number, layout=outputs[number].layout)
            if outputs[number].requires_grad and not (gradient and oracle.own.outputs[number].requires_grad):
                raise refused("gradient", "output {number} wants a gradient, and the layer's does not", number=number)
            wide, dtype = oracle.outputs[number], self._dtypes[number]
            expected = wide if wide.dtype is dtype else torch.empty_strided(wide.shape, wide.stride(), dtype=dtype, device=wide.device)
            if metadata(outputs[number]) == metadata(expected):
                continue
            order = order_instead(outputs[number], expected)
            if order is None:
                got, wanted = shown(outputs[number]), shown(expected)
                raise refused("output_metadata", "output {number} is {got}, the layer's is {wanted}", number=number, got=got, wanted=wanted)
            self.repairs |= Repairs(reordered_outputs=((number, order),))
            self.evidence.repair(f"output {number} has other strides than the layer's, and is copied")

    def _check_memory(self, outputs: Sequence[torch.Tensor], inputs: Sequence[Any], oracle: Oracle) -> None:
        for number in self.computed:
            for position, value in enumerate(inputs):
                if isinstance(value, torch.Tensor) and position not in self.repairs.copied_inputs and shared_memory(outputs[number], value):
                    name = self.case.names[position]
                    raise refused("output_metadata", "output {number} shares memory with {name}", number=number, name=name)
            for other in self.computed[: self.computed.index(number)]:
                ours, theirs = (outputs[other], outputs[number]), (oracle.outputs[other], oracle.outputs[number])
                if shared_memory(*ours) and not shared_memory(*theirs):
                    raise refused("output_metadata", "outputs {other} and {number} share memory", other=other, number=number)

    def _refuse_writes_besides(self, guarded: GuardedInputs) -> None:
        for position in guarded.changed_besides():
            if position not in self.repairs.copied_inputs:
                raise refused("mutates_input", "it writes to the memory around {name}", name=self.case.names[position])
        self._refuse_broken_fences(guarded)

    def _refuse_broken_fences(self, guarded: GuardedInputs) -> None:
        if guarded.is_broken():
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
            self._context.forget_kept()  # that was written to by us

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
            guarded = GuardedInputs.of(Sample.of(self.specs).fill(0, self._style, self._highs), gradient=gradient)
            runner = Runner(self.case, len(self._dtypes))
            self.evidence.runs += 1
            runner(guarded.values, gradient=gradient, tolerate_writes=True)
            self._refuse_broken_fences(guarded)
            written |= runner.written
            written |= {position for position in guarded.changed_besides() if not self.specs[position].of_layer}
        self.repairs |= Repairs(tuple(written))
        if written:
            names = ", ".join(self.case.names[position] for position in sorted(written))
            self.evidence.repair(f"it overwrites {names}, and gets copies")

    def _call_for_another_layer(self) -> None:
        """A layer with another epsilon comes first: what a kernel keeps of the first call that it ever gets is not this layer's."""
        case = self.case
        constants, args, kwargs = (
            map_aggregate(values, lambda value: 2 * value if isinstance(value, float) else value) for values in _numbers_of(case)
        )
        if (constants, args, kwargs) == _numbers_of(case):
            return
        other = replace(case, args=args, kwargs=kwargs, state=replace(case.state, constants=constants))
        inputs = GuardedInputs.of(Sample.of(self.specs).fill(9, self._style, self._highs), gradient=False).values
        with contextlib.suppress(Refused, Unprobed):  # it need not take such numbers
            Runner(other, len(self._dtypes))(inputs, gradient=False, tolerate_writes=True)

    def _go_on_without_gradient(self) -> None:
        if self.case.training:
            raise refused("gradient", "its output is detached: no gradient flows through it")
        self.repairs |= Repairs(recompute="no gradient flows through it")
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
        case = self.case
        try:
            return Oracle(case.reference, inputs, (), autocast=case.autocast, device=case.device.type).own.outputs
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the layer objects to
            raise Unprobed(f"the layer itself raises on random inputs: {described(error)}") from error

    def _dtypes_of_reference(self) -> tuple[tuple[torch.dtype, ...], torch.dtype | None]:
        """The dtypes of the outputs, and the coarsest one to which the layer rounds."""
        inputs = Sample.of(self.specs).fill(0, self._style, self._highs).views()
        with torch.no_grad(), autocast_to(self.case.autocast, self.case.device.type):
            outputs, rounded = rounding_dtype(self.case.reference, inputs)
        return tuple(output.dtype for output in outputs), rounded

    def _widest_affordable(self) -> torch.dtype:
        half = self._rounded is not None and torch.finfo(self._rounded).bits <= 16
        if not half or elements_of(self.specs) <= _TOO_MANY_FOR_FLOAT64:
            return torch.float64
        self.evidence.note("at the call's own sizes, the exact results are the reference's in float32")
        return torch.float32

    def _oracle(self, inputs: Sequence[Any], gradient: bool) -> Oracle:
        case, wanted = self.case, self._context.wanted if gradient else ()
        return Oracle(case.reference, inputs, wanted, widest=self._widest, autocast=case.autocast, device=case.device.type)


def _numbers_of(case: ProbeCase) -> tuple[Any, Any, Any]:
    return case.state.constants, case.args, case.kwargs


def _differing(one: torch.Tensor, other: torch.Tensor) -> float:
    """Which part of two tensors differs."""
    return float((one != other).double().mean()) if one.numel() else 0.0


def _finite(output: Any) -> float:
    """Which part of a result is finite."""
    if not isinstance(output, torch.Tensor) or not output.is_floating_point() or not output.numel():
        return 1.0
    return float(torch.isfinite(output).double().mean())
