"""How long calls take: on a GPU what the device does and what the host does apart, elsewhere by the clock."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..capture import _torch
from .results import Times

_log = logging.getLogger("fxkernels")

Run = Callable[[], object]

ROUNDS = 9
"""How often each side is timed. The sides take turns, so that whatever else the machine does meets all of them."""

_WARM_UP = 3
_REPLAY, _MOST_CALLS = 1e-3, 40
"""About how long one replay of a CUDA graph takes, in seconds, and how many calls it has at most."""
_REPLAYS = 3
"""How many replays make a measurement, the shortest. Other programs on the GPU get slices of time that are longer than a replay."""
_HOST_CALLS = 10


def times_of(runs: Mapping[str, Run], device: torch.device) -> dict[str, Times]:
    """Return the times of some functions that do their work on a device, with the sides taking turns.

    Args:
        runs: Functions without arguments. They are called a few times before, unmeasured.
        device: Where they work. What they launch on a GPU goes to its current stream, which is not the default one: it is captured there.
    """
    for run in runs.values():
        for _ in range(_WARM_UP):
            run()
    if device.type != "cuda":
        return _clocked(runs)
    with torch.cuda.device(device):
        torch.cuda.synchronize()
        return _on_gpu(runs)


def _clocked(runs: Mapping[str, Run]) -> dict[str, Times]:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    calls = calls_within([_elapsed(run) for run in runs.values() for _ in range(_WARM_UP)])
    for _ in range(ROUNDS):
        for name, run in runs.items():
            seconds[name].append(min(_elapsed(run) for _ in range(calls)))  # whatever else runs can only add to a call
    return {name: Times(tuple(1e6 * t for t in found)) for name, found in seconds.items()}


def _on_gpu(runs: Mapping[str, Run]) -> dict[str, Times]:
    calls = calls_within([1e-6 * _on_device(run) for run in runs.values() for _ in range(_WARM_UP)])
    try:
        replays = {name: _torch.replayed(run, calls) for name, run in runs.items()}
    except RuntimeError as error:  # it asks the device for something, or launches on a stream of its own
        # Then it is done for no side: a replay against launches would compare two things.
        _log.info("timed without CUDA graphs, so that the device may wait for the host: %s", error)
        return _as_launched(runs, calls)
    device: dict[str, list[float]] = {name: [] for name in runs}
    host: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            device[name].append(min(_on_device(replays[name]) for _ in range(_REPLAYS)) / calls)
            host[name].append(_asked(run))
    return {name: Times(tuple(device[name]), tuple(host[name])) for name in runs}


def _as_launched(runs: Mapping[str, Run], calls: int) -> dict[str, Times]:
    repeated = {name: _repeated(run, calls) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in repeated.items():
            times[name].append(_on_device(run) / calls)
    return {name: Times(tuple(found)) for name, found in times.items()}


def calls_within(seconds: Sequence[float]) -> int:
    """Return how many calls make one measurement, of all sides alike.

    A replay begins and ends with some microseconds that belong to no call. Its calls share them, so a side with fewer calls would seem
    slower, and two launches perhaps faster than one.

    Args:
        seconds: What single calls took; the shortest counts, since a first one may have had to wait.
    """
    return max(1, min(_MOST_CALLS, int(_REPLAY / max(min(seconds), 1e-9))))


def _repeated(run: Run, calls: int) -> Run:
    def repeat() -> None:
        for _ in range(calls):
            run()

    return repeat


def _on_device(run: Run) -> float:
    """Microseconds between two marks on the stream."""
    event: Any = torch.cuda.Event
    begin, end = event(enable_timing=True), event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return max(1e3 * float(begin.elapsed_time(end)), 1e-3)


def _asked(run: Run) -> float:
    """Microseconds that the host takes for a call, without waiting for the device."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(_HOST_CALLS):
        run()
    seconds = time.perf_counter() - start
    torch.cuda.synchronize()
    return 1e6 * seconds / _HOST_CALLS


def _elapsed(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
