"""How long calls take: on a GPU what the device does and what the host does apart, elsewhere by the clock."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .measured import Side

_log = logging.getLogger("fxkernels")

Run = Callable[[], object]

ROUNDS = 9
"""How often each side is timed. The sides take turns, so that whatever else the machine does meets all of them."""

_WARM_UP = 3
_REPLAY, _MOST_CALLS = 500e-6, 20
"""About how long one replay of a CUDA graph takes, in seconds, and how many calls it has at most."""
_HOST_CALLS = 10


def times_of(runs: Mapping[str, Run], device: torch.device) -> dict[str, Side]:
    """Return the times of some functions that do their work on a device, with the sides taking turns.

    Args:
        runs: Functions without arguments. They are called a few times before, unmeasured.
        device: Where they work; what they launch goes to its current stream.
    """
    for run in runs.values():
        for _ in range(_WARM_UP):
            run()
    if device.type != "cuda":
        return _clocked(runs)
    with torch.cuda.device(device):
        torch.cuda.synchronize()
        return _on_gpu(runs)


def _clocked(runs: Mapping[str, Run]) -> dict[str, Side]:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    calls = {name: max(1, min(_MOST_CALLS, int(_REPLAY / max(_elapsed(run), 1e-9)))) for name, run in runs.items()}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            seconds[name].append(min(_elapsed(run) for _ in range(calls[name])))  # whatever else runs can only add to a call
    return {name: Side(tuple(1e6 * t for t in found)) for name, found in seconds.items()}


def _on_gpu(runs: Mapping[str, Run]) -> dict[str, Side]:
    replays = {name: _replay_of(run) for name, run in runs.items()}
    device: dict[str, list[float]] = {name: [] for name in runs}
    host: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            replay, calls = replays[name]
            device[name].append(_on_device(replay) / calls)
            host[name].append(_asked(run))
    return {name: Side(tuple(device[name]), tuple(host[name])) for name in runs}


def _replay_of(run: Run) -> tuple[Run, int]:
    """Return a function that makes the device do some calls in a row, and how many: with the host out of the way, if possible."""
    calls = max(1, min(_MOST_CALLS, int(_REPLAY / max(1e-6 * _on_device(run), 1e-6))))
    graph = torch.cuda.CUDAGraph()
    try:
        # Other threads may do what they like with the device meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            for _ in range(calls):
                run()
    except RuntimeError as error:  # it asks the device for something, or launches on a stream of its own
        _log.debug("not in a CUDA graph: %s", error)
        torch.cuda.synchronize()

        def repeat() -> None:
            for _ in range(calls):
                run()

        return repeat, calls
    graph.replay()
    return graph.replay, calls


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
