"""tune(): which kernels make a model faster on this machine, measured call by call and then end to end, as a plan to be committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles
from typing import Any

import torch
from torch import nn

from .backend import HubKernels, hubkernels
from .decide.repositories import kernel_name
from .kernels.call import flatten_tensors
from .kernels.describe import Description
from .kernels.lowering.names import state_of
from .mapping import KernelMapping, MappingLike
from .passes.plan import Decision
from .selection import Inner
from .selection.tuned_plan import PlannedCalls, TunedPlan

_ROUNDS, _SECONDS, _WARM_UP = 7, 0.2, 3
"""How often each side of a comparison is timed, about how long each time, and after how many calls."""

NOISE = 0.01
"""By what part a whole step may seem slower with a plan than without, before kernels are taken out of it again."""

Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class _Step:
    """One step of a model: a forward, and in training mode a backward."""

    model: nn.Module
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    inner: Inner
    mapping: MappingLike | KernelMapping | None

    @property
    def device(self) -> torch.device:
        tensors = [*self.model.parameters(), *flatten_tensors(list(self.args)), *flatten_tensors(dict(self.kwargs))]
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def compiled(self, backend: Any) -> Callable[[], None]:
        """A function that makes one step with what `torch.compile` makes of the model; it has been called once."""
        mode = None if isinstance(backend, HubKernels) else self.inner.mode  # ours knows it
        compiled = torch.compile(self.model, backend=backend, mode=mode)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

        def step() -> None:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            with torch.set_grad_enabled(self.model.training):
                output = compiled(*self.args, **self.kwargs)
                if self.model.training:
                    loss = sum(tensor.float().sum() for tensor in flatten_tensors(output) if tensor.requires_grad)
                    torch.autograd.grad(loss, parameters, allow_unused=True)  # type: ignore[arg-type] # 0 only without any gradient

        step()
        return step

    def backend(self, **options: Any) -> HubKernels:
        return hubkernels(inner=self.inner.compiler, inner_mode=self.inner.mode, mapping=self.mapping, **options)


def tune(
    model: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    mapping: MappingLike | KernelMapping | None = None,
    inner: str = "inductor",
    inner_mode: str | None = None,
    budget: float = 600.0,
    tell: Tell = lambda sentence: None,
) -> TunedPlan:
    """Return the plan with which a call of the model is fastest on this machine.

    First the kernels that fit each layer call are timed against the compiler's own code, as ``select="measured"`` does. Then the whole step
    is timed without kernels and with those that won. If it is slower with them, kernels are taken out again, all those of one layer name at
    a time, until it is not. A step is a forward, and for a model in training mode a backward of the sum of its outputs. Weights and
    gradients stay as they are.

    If it is interrupted, the measurement in progress is lost; the times of layer calls are kept, and the next run goes on from there.

    Args:
        model: Any module, on the device and in the mode for which the plan is made.
        args: Positional arguments of the call.
        kwargs: Its keyword arguments.
        mapping: The kernels to choose from; by default the mapping in force.
        inner: The compiler that gets the rewritten graphs.
        inner_mode: Its mode, e.g. ``"reduce-overhead"``.
        budget: How many seconds the timing of layer calls may take.
        tell: Called with a sentence for each thing that was found out.

    Raises:
        ValueError: If no layer call of the model has a candidate.
        NoKernelError, RepositoryError: As `hubkernels`.

    Example:
        >>> tune(model, kwargs=inputs).write(Path("plan.json"))
        >>> model = torch.compile(model, backend="hubkernels", options={"plan": "plan.json"})
    """
    step = _Step(model, tuple(args), dict(kwargs or {}), Inner(inner, inner_mode), mapping)
    torch.compiler.reset()
    measuring = step.backend(select="measured", select_budget=budget)
    step.compiled(measuring)
    calls = tuple(_planned_calls(measuring))
    if not calls:
        raise ValueError(f"no layer call of {type(model).__name__} has a kernel to choose: {measuring.report.summary}")
    tell(f"call by call: {measuring.report.summary}")
    plan = TunedPlan.on(step.device, step.inner, type(model).__name__, calls)
    return _end_to_end(step, plan, tell)


def _planned_calls(backend: HubKernels) -> Iterator[PlannedCalls]:
    """What was decided about each call that has candidates, those that are alike together."""
    found: dict[PlannedCalls, list[str]] = {}
    for key, site, decision in backend.session.recorder.decisions():
        if not decision.candidates:
            continue
        kernel = decision.use.kernel if decision.status == "rewritten" else None
        name, state = (kernel_name(kernel.identity), state_of(kernel)) if kernel is not None else (None, None)
        description: Description = decision.description
        what = (site.layer_name, bool(site.training), description.inputs, description.form)
        found.setdefault(PlannedCalls((), *what, name, state, _why(decision)), []).append(key)
    for entry, keys in found.items():
        yield replace(entry, calls=tuple(keys))


def _why(decision: Decision) -> str:
    gate = decision.candidates[-1].gates[-1]
    if decision.status == "rewritten":
        return gate.note
    # Of several misses the last is that of the candidate that came farthest; the compiler's own code was faster than it.
    return str(decision.misses[-1]) if decision.misses else decision.status


@dataclass(frozen=True, eq=False)
class _Timed:
    """A plan, and the milliseconds of whole steps without and with it, round by round."""

    plan: TunedPlan
    compiler: tuple[float, ...]
    planned: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """How many times as fast as without kernels a step is."""
        return median(self.compiler) / median(self.planned)

    @property
    def is_slower(self) -> bool:
        """Whether a step is slower than without kernels, and not by chance."""
        ratios = [planned / compiler for planned, compiler in zip(self.planned, self.compiler, strict=True)]
        return median(ratios) > 1 + NOISE and quantiles(ratios, n=4)[0] > 1

    @property
    def finished(self) -> TunedPlan:
        """The plan with its times."""
        return replace(self.plan, milliseconds={"compiler": median(self.compiler), "plan": median(self.planned)})

    def __str__(self) -> str:
        return f"a step takes {median(self.planned):.3g} ms with kernels and {median(self.compiler):.3g} ms without, {self.ratio:.3f}x"


def _end_to_end(step: _Step, plan: TunedPlan, tell: Tell) -> TunedPlan:
    """The plan, or what is left of it once no kernel makes the whole step slower, with the times of the step."""
    best = _timed(step, plan)
    tell(str(best))
    while best.is_slower and (names := _names(best.plan)):
        best = max((_timed(step, _without(best.plan, name)) for name in names), key=lambda timed: timed.ratio)
        (left_out,) = set(names) - set(_names(best.plan))
        tell(f"without kernels for {left_out}: {best}")
    return best.finished


def _names(plan: TunedPlan) -> list[str]:
    return list(dict.fromkeys(entry.layer_name for entry in plan.calls if entry.kernel is not None))


def _without(plan: TunedPlan, layer_name: str) -> TunedPlan:
    def left(entry: PlannedCalls) -> PlannedCalls:
        if entry.layer_name != layer_name or entry.kernel is None:
            return entry
        return replace(entry, kernel=None, state=None, why=f"the whole step was slower with {entry.kernel} ({entry.why})")

    return replace(plan, calls=tuple(map(left, plan.calls)))


def _timed(step: _Step, plan: TunedPlan) -> _Timed:
    """The plan with the times of a step without and with it, taken in turns."""
    torch.compiler.reset()
    sides = [step.compiled(step.inner.compiler)]
    sides.append(step.compiled(step.backend(plan=plan)) if _names(plan) else sides[0])
    calls = [max(1, int(_SECONDS / _seconds(run, step.device, _WARM_UP))) for run in sides]
    rounds = [[1e3 * _seconds(run, step.device, count) for run, count in zip(sides, calls, strict=True)] for _ in range(_ROUNDS)]
    compiler, planned = zip(*rounds, strict=True)
    return _Timed(plan, compiler, planned)


def _seconds(run: Callable[[], None], device: torch.device, calls: int) -> float:
    """Seconds of one call, of some in a row: the mean, and on a CPU the shortest."""
    if device.type == "cpu":
        return min(_elapsed(run) for _ in range(calls))  # whatever else runs can only add to a call
    torch.accelerator.synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        run()
    torch.accelerator.synchronize(device)
    return (time.perf_counter() - start) / calls


def _elapsed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
