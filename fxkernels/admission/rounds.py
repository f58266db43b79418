"""Runs of a kernel for one choice of sizes: other values each time, the same memory again, earlier outputs still in somebody's hands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..kernels.lowering.autocast import autocast_to
from .evidence import Evidence
from .gradients import Run
from .memory import shared_memory
from .request import Inputs, Request, TensorSpec
from .running import Runner, Unprobed, changed_positions, copies, described, refused, shown
from .samples import LARGE, LARGER, NORMAL, TINY, ZEROS, Sample, Style, elements_of
from .sizes import integer_highs
from .tolerances import Bounds, compare
from .truth import Truth
from .wide import rounding_dtype

_TOO_MANY_FOR_FLOAT64 = 1 << 22
"""From this many elements on, half precision is compared with float32."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the runs have shown of a kernel that is right.

    Args:
        cloned: Positions of inputs of which it has to get copies.
        detached: Whether no gradient flows through it.
        style: Values for which the layer stays finite; None if that is not known yet, nor the rest.
        dtypes: Those of the outputs.
        rounded: The coarsest dtype to which the layer rounds.
    """

    cloned: frozenset[int] = frozenset()
    detached: bool = False
    style: Style | None = None
    dtypes: tuple[torch.dtype, ...] = ()
    rounded: torch.dtype | None = None


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
        self.cloned, self.detached = before.cloned, before.detached
        self.wanted = tuple(n for n, spec in enumerate(specs) if isinstance(spec, TensorSpec) and spec.requires_grad)
        self._style = before.style if before.style is not None else self._ordinary()
        self._dtypes, self._rounded = before.dtypes, before.rounded
        if before.style is None:
            self._look_at_reference()
        self.computed = tuple(n for n in range(len(self._dtypes)) if n not in request.passed)
        self._widest = self._widest_affordable()
        self._kept: list[tuple[tuple[torch.Tensor, ...], list[Any]]] = []
        evidence.sizes += [str(spec) for spec in specs if str(spec) not in evidence.sizes]

    @property
    def gradient(self) -> bool:
        """Whether the kernel's own gradient is looked at."""
        return self.request.gradient and not self.detached

    def all(self) -> Shown:
        """Make all checks.

        Raises:
            Refused: By the first one that fails.
        """
        self._find_out_what_it_writes()
        first = self._round(0, self._style)
        if self.gradient and first.is_detached():
            self._go_on_without_gradient()
            first = self._round(0, self._style)
        if self.gradient:
            first.several_backwards()
        one, other = self._round(1, self._style), self._round(2, self._style)
        if self.gradient:  # what one call keeps for its backward is not another's
            one.backward_among_others()
            other.backward()
        self._same_memory_again()
        for style in (ZEROS, TINY, LARGER):
            if style is not LARGER or self._has_room(style):
                self._round_with_backward(3, style)
        large = self._large()
        if large is not None:
            found = self._round(3, large)
            if self.gradient:  # where a softmax has but one value left, a gradient is what rounding leaves of large terms
                found.finite_backward()
        self._round_with_backward(0, self._style)
        return self._shown()

    def one(self) -> Shown:
        """Compare values and gradients once."""
        self._round_with_backward(0, self._style)
        return self._shown()

    def _shown(self) -> Shown:
        return Shown(self.cloned, self.detached, self._style, self._dtypes, self._rounded)

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

    def _round(self, seed: int, style: Style) -> Run:
        sample = Sample.of(self.specs).fill(seed, style, self._highs)
        return self._checked(sample.inputs(gradient=self.gradient), sample, style)

    def _checked(self, inputs: list[Any], sample: Sample, style: Style) -> Run:
        outputs = self._runner()(inputs, gradient=self.gradient)
        truth = self._truth(sample.views())
        self._check_metadata(outputs, truth)
        self._check_memory(outputs, inputs, truth)
        for number in self.computed:
            self._compare(number, outputs[number], truth, style)
        self.check_earlier()
        self._kept.append((outputs, copies(outputs)))
        return Run(self, inputs, outputs, truth, style)

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

    def _check_metadata(self, outputs: Sequence[torch.Tensor], truth: Truth) -> None:
        for number in self.computed:
            wide, dtype = truth.outputs[number], self._dtypes[number]
            expected = wide if wide.dtype is dtype else torch.empty_strided(wide.shape, wide.stride(), dtype=dtype, device=wide.device)
            if _described(outputs[number]) != _described(expected):
                got, wanted = shown(outputs[number]), shown(expected)
                raise refused("output_metadata", "output {number} is {got}, the layer's is {wanted}", number=number, got=got, wanted=wanted)

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

    def check_earlier(self) -> None:
        """Refuse a kernel that has changed what it returned before.

        Raises:
            Refused: If it has.
        """
        for outputs, before in self._kept:
            for number in changed_positions(before, outputs):
                if number in self.computed:
                    raise refused("numerics", "a later call changes output {number} of an earlier one", number=number)

    def _same_memory_again(self) -> None:
        """Other values where the last ones were, as after an optimizer's step: what is kept by address is out of date."""
        sample = Sample.of(self.specs).fill(4, self._style, self._highs)
        inputs = sample.views(gradient=self.gradient)
        for seed in (4, 5):
            sample.fill(seed, self._style, self._highs)
            found = self._checked(inputs, sample, self._style)
            if self.gradient:
                found.backward()

    # --- what has to be known first ---

    def _find_out_what_it_writes(self) -> None:
        """A kernel that overwrites its arguments gets copies; the layer's own tensors are not its to write."""
        sample = Sample.of(self.specs).fill(0, self._style, self._highs)
        runner = self._runner(frozenset())
        runner(sample.inputs(gradient=self.gradient), gradient=self.gradient, tolerate_writes=True)
        self.cloned |= runner.written
        if runner.written:
            names = ", ".join(self.request.names[position] for position in sorted(runner.written))
            self.evidence.note(f"it overwrites {names}, and gets copies")

    def _go_on_without_gradient(self) -> None:
        if self.request.training:
            raise refused("gradient", "its output is detached: no gradient flows through it")
        self.detached = True
        self.evidence.note("no gradient flows through it: the reference's is recomputed")

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

    def _large(self) -> Style | None:
        for style in LARGE:
            if all(_finite(output) == 1.0 for output in self._outputs_of_layer(3, style)):
                return style
        return None

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

    def _truth(self, inputs: Sequence[Any]) -> Truth:
        request, wanted = self.request, self.wanted if self.gradient else ()
        return Truth(request.reference, inputs, wanted, widest=self._widest, autocast=request.autocast, device=request.device.type)


def _differing(one: torch.Tensor, other: torch.Tensor) -> float:
    """Which part of two tensors differs."""
    return float((one != other).double().mean()) if one.numel() else 0.0


def _described(tensor: torch.Tensor) -> Any:
    # The stride of a dimension of size 1 is never used, and kernels differ in what they put there.
    strides = [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size != 1]
    return (tensor.dtype, tensor.device, list(tensor.shape), strides if tensor.numel() else [])


def _finite(output: Any) -> float:
    """Which part of a result is finite."""
    if not isinstance(output, torch.Tensor) or not output.is_floating_point() or not output.numel():
        return 1.0
    return float(torch.isfinite(output).double().mean())
