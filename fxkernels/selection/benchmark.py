"""Contests: the neighbourhood of a call is compiled without a kernel and with each that fits, and timed in turns, within a budget.

Times are kept on disk, so that a form of call is timed once for each kind of machine, and not once for each process. They are beside the
records of admission, in ``timed`` below the cache directory, and are read first from ``timed`` below the directory that
``FXKERNELS_RECORDS`` names: that is how other machines of the kind get them. They hold no dates and no paths.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import fx

from ..admission.records import VARIABLE
from ..cache_directory import cache_directory, read_record, write_record
from ..capture import _torch
from ..kernels.lowering.autocast import autocast_to
from ..kernels.lowering.names import hash_of, text_of_graph, text_of_value
from ..kernels.samples import Inputs, Sample, random_like
from .results import Results, Times, device_name, versions_of_compilers
from .timing import times_of

_log = logging.getLogger("fxkernels")
_ORIGINAL = ""

FORMAT = 2
"""Raised when something else is timed than before."""

Select = Literal["first", "measured"]
"""Who chooses between the kernels that fit a call, and the original layer: ``"first"`` is the mapping's order, ``"measured"`` whatever was
the fastest on this machine, the compiler's own code among them."""

SELECTS: tuple[Select, ...] = ("first", "measured")


@dataclass(frozen=True, eq=False)
class Inner:
    """The compiler that gets the rewritten graphs, as a value.

    Args:
        compiler: The name of a registered backend, or a callable like one.
        mode: Its mode.
        options: Its options.
    """

    compiler: str | Callable[..., Any] = "inductor"
    mode: str | None = None
    options: dict[str, Any] | None = None

    @property
    def is_inductor(self) -> bool:
        """Whether it is Inductor."""
        return _torch.is_inductor(self.compiler)

    @property
    def replays(self) -> bool:
        """Whether what it makes is run by replaying CUDA graphs."""
        return _torch.replays_cuda_graphs(self.compiler, self.mode, self.options)

    @property
    def timed_as(self) -> str:
        """What is timed for it: the same whether or not it uses CUDA graphs, which times are taken without."""
        if not self.is_inductor:
            return str(self)
        settings = _torch.timed_settings(self.compiler, self.mode, self.options)
        return ", ".join(["inductor", *(f"{name}={value!r}" for name, value in settings.items())])

    def compile(self, gm: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        """Return what it makes of a graph that is to be timed; see `timed_compiler`. The graph is the compiler's afterwards."""
        compiler = _torch.timed_compiler(self.compiler, self.mode, self.options)
        with _torch.cacheable(gm):
            compiled: Callable[..., Any] = compiler(gm, inputs)
            return compiled

    def __str__(self) -> str:
        if not isinstance(self.compiler, str):
            return "inductor" if self.is_inductor else text_of_value(self.compiler)
        options = ", ".join(f"{name}={value!r}" for name, value in sorted((self.options or {}).items()))
        return " ".join(part for part in (self.compiler, self.mode, f"({options})" if options else "") if part)


@dataclass(frozen=True, eq=False)
class Contest:
    """One form of call and the kernels that fit it.

    Args:
        original: Returns the neighbourhood as a graph from inputs to a tuple of outputs; a new one at each call, since compilers edit it.
        kernels: The same with a kernel in it, by what tells the kernel from all others: identity, state and how it is called.
        inputs: What goes in, without values.
        gradient: Whether a gradient flows through it; then the backward is timed too.
        device: Where it runs.
        inner: The compiler.
        autocast: The dtype to which autocast is set there; None if it is off.
        path: Module path of the first call of this form.
        around: How many operations of the neighbourhood are not the call's own.
        names: What reports call the kernels.
    """

    original: Callable[[], fx.GraphModule]
    kernels: Mapping[str, Callable[[], fx.GraphModule]]
    inputs: Inputs
    gradient: bool
    device: torch.device
    inner: Inner
    autocast: torch.dtype | None = None
    path: str = ""
    around: int = 0
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def direction(self) -> str:
        """What is timed, in words."""
        return "forward and backward" if self.gradient else "forward"

    def how(self, results: Results) -> str:
        """What was timed and how, in words, if these are its times."""
        # On a GPU the host is timed apart, unless nothing could be captured; those times are coarser, and readers have to know.
        as_launched = self.device.type == "cuda" and not results.original.host
        return f"{self}, as launched, since no CUDA graph can be made of it" if as_launched else str(self)

    def __str__(self) -> str:
        operations = f"with {self.around} operation{'' if self.around == 1 else 's'} around it" if self.around else "by itself"
        return f"{self.direction}, {operations}, {device_name(self.device)}"


@dataclass(eq=False)
class Budget:
    """How many seconds may be spent on measuring, and how many have been.

    Args:
        seconds: The limit. A contest that has begun is finished; none begins after it.
    """

    seconds: float
    spent: float = 0.0
    held: int = 0
    known: dict[str, Results] = field(default_factory=dict)
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
            with _progress_bar(self.seconds, self.spent, f"timing kernels: {path}"):
                yield
        finally:
            self.spent += time.monotonic() - start
            self.held += 1


@contextlib.contextmanager
def _progress_bar(seconds: float, spent: float, text: str) -> Iterator[None]:
    """On a terminal, a bar on standard error of the budget that is used up; it goes away afterwards."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("of {task.total:g} s"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(text, total=seconds, completed=spent)  # type: ignore[arg-type]  # rich takes floats as well
        yield


def known(contest: Contest, budget: Budget) -> Results | None:
    """Return what is known of a contest, by this process or by a record, without timing anything."""
    key = key_of(contest)
    if key is None:
        return None
    if key not in budget.known and (found := _read_record(key, contest)) is not None:
        budget.known[key] = found
    return budget.known.get(key)


def measure(contest: Contest, budget: Budget) -> Results | str:
    """Return the times of a contest, by a record or by holding it; a phrase that says why there are none.

    Each contest is kept as soon as it is over: after an interrupt, or when the budget is used up, the next run goes on from there.

    Args:
        contest: What is timed.
        budget: What may be spent on it.
    """
    found = known(contest, budget)
    if found is not None:
        return found
    if budget.is_used_up:
        return f"the budget for measuring, {budget.seconds:g} s, is used up; the next run goes on from here, or raise select_budget="
    with budget.spending(contest.path), _torch.isolated_compile():
        held = _torch.run_for_real(lambda: _held(contest), [contest.device])
    if isinstance(held, Results):
        _log.info("timed at %s, %s: %s", contest.path, contest.direction, _summary(contest, held))
        key = key_of(contest)
        if key is not None:
            budget.known[key] = held
            if not held.failed:  # what failed for want of memory, say, may not fail the next time
                _write_record(key, contest, held)
    return held  # type: ignore[no-any-return] # run_for_real returns what its function does


def _held(contest: Contest) -> Results | str:
    """Times of all sides that can be compiled and run. Backwards run in the calling thread: Inductor compiles one when it first runs, under
    a lock that a compilation around ours holds (torch 2.11)."""
    with torch.autograd.set_multithreading_enabled(False), _torch.capture_stream(contest.device):
        return _times(contest)


def _times(contest: Contest) -> Results | str:
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
            sides: dict[str, Times] = times_of(runs, contest.device)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            return f"it cannot be timed: {_first_line(error)}"
    return Results(sides.pop(_ORIGINAL), sides, contest.inner.replays, failed)


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


def _summary(contest: Contest, results: Results) -> str:
    return "; ".join(f"{contest.names.get(name, name)} {results.told(name)}" for name in results.kernels)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


# --- records: times on disk ---------------------------------------------------------------------------------------------------------------


def key_of(contest: Contest) -> str | None:
    """Return a hash of everything on which the times depend; None for a contest that no other process could hold again."""
    parts = {
        "format": FORMAT,
        "device": device_name(contest.device),
        "versions": versions_of_compilers(),
        "inner": contest.inner.timed_as,
        "graph": text_of_graph(contest.original()),
        "inputs": [f"{value!r}" for value in contest.inputs],
        "kernels": sorted(contest.kernels),
        "gradient": contest.gradient,
        "autocast": str(contest.autocast),
        "precision": torch.get_float32_matmul_precision(),
    }
    return hash_of(parts)


def _read_record(key: str, contest: Contest) -> Results | None:
    """Return the times of a contest that are kept under its key, if they can be read."""
    named = os.environ.get(VARIABLE)
    for place in ([Path(named).expanduser() / "timed"] if named else []) + [cache_directory() / "timed"]:
        content = read_record(_record_path(place, key))
        if content is None or content.get("format") != FORMAT or content.get("key") != key:
            continue
        try:
            return Results.from_dict(content, contest.inner.replays)
        except ValueError as error:
            _log.warning("times of kernels in %s cannot be read and will be measured anew: %s", _record_path(place, key), error)
    return None


def _write_record(key: str, contest: Contest, results: Results) -> None:
    """Keep times. Where that is not possible, a warning says so."""
    told: dict[str, Any] = {
        "device": device_name(contest.device),
        "versions": versions_of_compilers(),
        "inner": contest.inner.timed_as,
        "inputs": [str(value) for value in contest.inputs],
        "direction": contest.direction,
        "around": contest.around,
    }
    try:
        write_record(_record_path(cache_directory() / "timed", key), {"format": FORMAT, "key": key, **told, **results.as_dict()})
    except OSError as error:
        _log.warning("the times of kernels at %s cannot be kept, so they will be measured again: %s", contest.path, error)


def _record_path(place: Path, key: str) -> Path:
    return place / key[:2] / f"{key}.json"
