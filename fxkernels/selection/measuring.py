"""Holds a contest, within a budget: compiles each side, times them in turns, keeps what came of it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from ..capture import _torch
from ..kernels.lowering.autocast import autocast_to
from ..kernels.samples import Sample, random_like
from . import records
from .contest import Contest
from .measured import Measured, Side
from .progress import Progress
from .timing import times_of

_log = logging.getLogger("fxkernels")
_ORIGINAL = ""


@dataclass(eq=False)
class Budget:
    """How many seconds may be spent on measuring, and how many have been.

    Args:
        seconds: The limit. A contest that has begun is finished; none begins after it.
    """

    seconds: float
    spent: float = 0.0
    held: int = 0
    known: dict[str, Measured] = field(default_factory=dict)
    """What this process has found, or read, by the keys of contests."""

    @property
    def is_used_up(self) -> bool:
        """Whether no further contest may begin."""
        return self.spent >= self.seconds

    @contextlib.contextmanager
    def spending(self, path: str) -> Iterator[None]:
        """Count the time within, and show on a terminal what it is spent on."""
        start = time.monotonic()
        try:
            with Progress(self.seconds, self.spent, f"timing kernels: {path}"):
                yield
        finally:
            self.spent += time.monotonic() - start
            self.held += 1


def known(contest: Contest, budget: Budget) -> Measured | None:
    """Return what is known of a contest, by this process or by a record, without timing anything."""
    key = records.key_of(contest)
    if key is None:
        return None
    if key not in budget.known and (found := records.read(key, contest)) is not None:
        budget.known[key] = found
    return budget.known.get(key)


def measure(contest: Contest, budget: Budget) -> Measured | str:
    """Return the times of a contest, by a record or by holding it; a phrase that says why there are none.

    Each contest is kept as soon as it is over. So whoever is interrupted, or has used up the budget, goes on from there the next time.

    Args:
        contest: What is timed.
        budget: What may be spent on it.
    """
    found = known(contest, budget)
    if found is not None:
        return found
    if budget.is_used_up:
        return f"the budget for measuring, {budget.seconds:g} s, is used up; the next run goes on from here, or raise select_budget="
    with budget.spending(contest.path), _torch.apart():
        held = _torch.run_for_real(lambda: _held(contest), [contest.device])
    if isinstance(held, Measured):
        _log.info("timed at %s, %s: %s", contest.path, contest.direction, _summary(contest, held))
        key = records.key_of(contest)
        if key is not None:
            budget.known[key] = held
            if not held.failed:  # what failed for want of memory, say, may not fail the next time
                records.write(key, contest, held)
    return held  # type: ignore[no-any-return] # run_for_real returns what its function does


def _held(contest: Contest) -> Measured | str:
    """Times of all sides that can be compiled and run. Backwards run in the calling thread: Inductor compiles one when it first runs, under
    a lock that whoever compiles around us holds (torch 2.11)."""
    with torch.autograd.set_multithreading_enabled(False), _torch.aside(contest.device):
        return _times(contest)


def _times(contest: Contest) -> Measured | str:
    failed: dict[str, str] = {}
    runs: dict[str, Callable[[], object]] = {}
    try:
        sample = Sample.of(contest.inputs).fill()
    except torch.OutOfMemoryError as error:
        return f"there is no memory to time it in: {_first_line(error)}"
    for name, graph in ((_ORIGINAL, contest.original), *contest.kernels.items()):
        try:
            runs[name] = _prepared(contest, graph(), sample)
        except Exception as error:  # whatever a compiler, or a kernel that is run on random values, raises
            cause = error.__cause__ or error  # of a kernel's error, what it raised
            failed[name] = f"{type(cause).__name__}: {_first_line(cause)}"
            level = logging.WARNING if name else logging.DEBUG
            _log.log(level, "%s cannot be timed at %s: %s", contest.names.get(name, "the layer"), contest.path, failed[name])
    if _ORIGINAL in failed:
        return f"what the compiler makes of the layer itself cannot be timed: {failed[_ORIGINAL]}"
    with torch.set_grad_enabled(contest.gradient), autocast_to(contest.autocast, contest.device.type):
        try:
            sides: dict[str, Side] = times_of(runs, contest.device)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            return f"it cannot be timed: {_first_line(error)}"
    return Measured(sides.pop(_ORIGINAL), sides, contest.inner.replays, failed)


def _prepared(contest: Contest, gm: fx.GraphModule, sample: Sample) -> Callable[[], object]:
    """A function that runs one side once, compiled and run before."""
    inputs = sample.views(gradient=contest.gradient)
    with torch.set_grad_enabled(contest.gradient), autocast_to(contest.autocast, contest.device.type):
        compiled = contest.inner.compile(gm, list(inputs))
        run = _differentiated(compiled, inputs) if contest.gradient else lambda: compiled(*inputs)
        run()
    return run


def _differentiated(compiled: Callable[..., Any], inputs: Sequence[Any]) -> Callable[[], object]:
    wanted = [value for value in inputs if isinstance(value, torch.Tensor) and value.requires_grad]
    outputs = [output for output in compiled(*inputs) if output.requires_grad]
    if not outputs or not wanted:
        return lambda: compiled(*inputs)
    gradients = [random_like(output, seed) for seed, output in enumerate(outputs)]
    del outputs

    def run() -> object:
        outputs = [output for output in compiled(*inputs) if output.requires_grad]
        return torch.autograd.grad(outputs, wanted, gradients, allow_unused=True)

    return run


def _summary(contest: Contest, measured: Measured) -> str:
    return "; ".join(f"{contest.names.get(name, name)} {measured.told(name)}" for name in measured.kernels)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
