"""bisect(): finds the kernel that makes a model wrong. Runs go through a model with more and more kernels until the user's check fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import FxKernelsError, KernelRuntimeError
from ..kernels.call import KernelCall
from ..kernels.layer import KernelIdentity
from ..report.model import CallReport, Evidence
from ..report.report import Report
from .hooked import ModelWithOptions, hooked, run_layer
from .preserve import PreservedModel

Check = Callable[[Any], Any]


def bisect(model: nn.Module, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *, check: Check, **options: Any) -> Culprit:
    """Return the call whose kernel makes `check` fail.

    The model is called with all kernels, with none, and then with the first half of them, the first quarter or three quarters, and so on:
    for n calls that is no more than log2(n) + 3 runs. It is captured once. Every run gets the same random numbers, so dropout drops the
    same; afterwards weights, buffers, gradients, arguments and generators are as they were before, for which a second set of weights is
    kept in memory meanwhile. `FXKERNELS_FUEL` is not looked at.

    Where several kernels are at fault, the first of them is found: leave it out and look again.

    Args:
        model: Any module, or one that has kernels already, by `kernelize` or ``torch.compile(backend=hubkernels(...))``; the latter is
            planned as it is for its inner compiler, and run without.
        args: Positional arguments of the call.
        kwargs: Its keyword arguments.
        check: Called with what the model returns. It fails if it raises, or returns something false other than None: both
            ``lambda logits: logits.isfinite().all()`` and a function full of asserts will do. It may go backward; the gradients are those
            of the model's own parameters. A kernel that raises is a failure as well.
        options: Keyword arguments of `kernelize`, for a model without kernels, e.g. ``mapping=`` or ``verify="off"``.

    Raises:
        ValueError: If the check fails without kernels, or passes with all, or if no call has a kernel.
        TypeError: If check is no callable, or args no tuple.
        NoKernelError, RepositoryError, CaptureError: As `kernelize` and the model's first call raise them.

    Example:
        >>> expected = model(x)
        >>> print(fxkernels.bisect(model, (x,), check=lambda output: torch.allclose(output, expected, atol=1e-2)))
    """
    if not callable(check):
        raise TypeError(f"check= is a function of the model's output, not {check!r}")
    if isinstance(args, torch.Tensor):
        raise TypeError("args= is a tuple of positional arguments: bisect(model, (x,), check=...)")
    subject = ModelWithOptions.of(model, options)
    subject = dataclasses.replace(subject, options=dataclasses.replace(subject.options, fuel=None))
    runs = _Runs(_Captured(subject), PreservedModel(subject.model, args, kwargs or {}), check)
    failure = runs.failure(None)
    calls = {call.key: call for call in runs.model.report.calls if any(decision.status == "rewritten" for decision in call.decisions)}
    if not calls:
        raise ValueError(f"no call has a kernel, so there is nothing to find: {runs.model.report.summary}")
    if failure is None:
        raise ValueError(
            f"the check passes with every kernel ({len(calls)} calls), so there is nothing to find\n"
            "  Arguments, training flags and autocast have to be those of the run that went wrong. bisect runs the kernels without an\n"
            "  inner compiler; if it goes wrong under one only, FXKERNELS_FUEL=n lets the first n calls of that very program run kernels."
        )
    without = runs.failure(())
    if without is not None:
        raise ValueError(f"the check fails even without kernels, so none of them is at fault: {without}")
    keys = tuple(calls)
    passing, failing = 0, len(keys)
    while failing - passing > 1:
        middle = (passing + failing) // 2
        found = runs.failure(keys[:middle])
        if found is None:
            passing = middle
        else:
            failing, failure = middle, found
    alone = passing == 0 or runs.failure(keys[passing:failing]) is not None
    return _culprit(calls[keys[passing]], keys[:passing], failure, alone, len(keys), runs.count)


def _culprit(call: CallReport, earlier: tuple[str, ...], failure: str, alone: bool, calls: int, runs: int) -> Culprit:
    decision = next(decision for decision in reversed(call.decisions) if decision.status == "rewritten")
    assert decision.kernel is not None
    where = (call.key, call.path, call.layer_name, call.layer, call.location)
    return Culprit(*where, decision.kernel, failure, alone, earlier, calls, runs, decision.evidence)


class _Runs:
    """Runs of a model with some of its kernels, and what the check said."""

    def __init__(self, model: _Captured, preserved: PreservedModel, check: Check) -> None:
        self.model, self._preserved, self._check = model, preserved, check
        self.count = 0

    def failure(self, keys: Sequence[str] | None) -> str | None:
        """Run the model with the kernels of these calls (None for all); return why the check fails, or None if it passes."""
        self.count += 1
        with self._preserved.run() as (args, kwargs):
            try:
                said = self._check(self.model.run(frozenset(keys) if keys is not None else None, args, kwargs))
                return None if said is None or bool(said) else f"check returned {said!r}"
            except KernelRuntimeError as error:
                return str(error)
            except FxKernelsError:  # nothing has run: no kernel where one is demanded, a repository that cannot be loaded
                raise
            except Exception as error:  # whatever a check raises
                return f"{type(error).__name__}: {error}"


class _Captured:
    """A model that Dynamo captures once; its kernels are switched on and off between runs."""

    def __init__(self, subject: ModelWithOptions) -> None:
        self._on: frozenset[str] | None = None
        self._run, self._backend = hooked(subject, self._switched)

    @property
    def report(self) -> Report:
        return self._backend.report

    def run(self, keys: frozenset[str] | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._on = keys
        return self._run(*args, **kwargs)

    def _switched(self, call: KernelCall, inputs: tuple[Any, ...]) -> Any:
        return call(*inputs) if self._on is None or call.path in self._on else run_layer(call, inputs)


_SHOWN_CALLS = 3
_SHOWN_LINES = 6


@dataclass(frozen=True, slots=True)
class Culprit:
    """A call whose kernel makes a check fail. As text it says what to do next.

    Args:
        key: The call, e.g. ``model.layers.3.norm#0``.
        path: Its module path.
        layer_name: The annotation's name.
        layer: The annotated class or function.
        location: ``file:line`` of the layer's definition, if known.
        kernel: The kernel that runs there.
        failure: What the check, or the kernel, said.
        alone: Whether the check fails with this kernel alone. If not, it takes kernels of earlier calls as well.
        earlier: The calls with kernels before this one, with all of which the check passes, in order.
        calls: How many calls have kernels.
        runs: How often the model was run.
        evidence: Why the kernel was trusted with the call.
    """

    key: str
    path: str
    layer_name: str
    layer: str
    location: str | None
    kernel: KernelIdentity
    failure: str
    alone: bool
    earlier: tuple[str, ...]
    calls: int
    runs: int
    evidence: Evidence | None = None

    def __str__(self) -> str:
        where = f" ({self.location})" if self.location else ""
        said = [line for line in self.failure.splitlines() if line.strip()][:_SHOWN_LINES] or ["failed"]
        before = len(self.earlier)
        return "\n".join(
            (
                f"{self.key}: its kernel makes the check fail",
                f"  layer   {self.layer_name}, {self.layer}{where}",
                f"  kernel  {self.kernel}{f' ({self.evidence.how})' if self.evidence is not None else ''}",
                f"  check   {said[0]}",
                *(f"          {line}" for line in said[1:]),
                f"  found   in {self.runs} runs, among {self.calls} calls with kernels",
                f"  alone   {self._alone}",
                "What next:",
                "  measure it    print(fxkernels.numerics(kernelized, *args))",
                f'  leave it out  hubkernels(exclude="{self.path}")',
                *self._ways_to_keep_it_out,
                f"  by hand       FXKERNELS_FUEL={before} still passes, FXKERNELS_FUEL={before + 1} fails",
            )
        )

    @property
    def _ways_to_keep_it_out(self) -> tuple[str, ...]:
        """How the probe can help: not at all if the kernel has passed it."""
        how = self.evidence.how if self.evidence is not None else "unverified"
        if how == "unverified":
            return ('  keep it out   verify="probe" refuses kernels that compute something else',)
        if how == "unprobed":
            return ('  keep it out   verify="strict" refuses kernels that cannot be probed, as this one',)
        return ()

    @property
    def _alone(self) -> str:
        if self.alone:
            return "the check fails with this kernel and no other, too"
        shown = ", ".join(self.earlier[-_SHOWN_CALLS:])
        more = f" and {len(self.earlier) - _SHOWN_CALLS} more" if len(self.earlier) > _SHOWN_CALLS else ""
        return f"the check passes: it takes kernels of earlier calls as well, among {shown}{more}"
