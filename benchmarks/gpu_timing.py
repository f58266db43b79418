"""How long a call takes on a GPU, without Python and launches: from replays of CUDA graphs; and what a copy of as many bytes takes.

What is compiled for a GPU is compiled by other processes first, all at once, and found in caches on disk when it is measured.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

import torch

__all__ = ["Copies", "in_other_processes", "microseconds"]


def microseconds(run: Callable[[], object], *, replays: int = 9, span: float = 1000.0) -> list[float]:
    """Return the time of one call on the GPU in some replays of a graph of calls, in order of size.

    Args:
        run: The call. It may make tensors and use autograd; after a first time it must not wait for the GPU.
        replays: How many times the graph is run.
        span: Of about how many microseconds the graph is, of at least five calls.
    """
    few = _graph_of(run, 5)
    _replayed(few)
    calls = max(5, min(200, int(span * 5 / _replayed(few))))
    graph = few if calls == 5 else _graph_of(run, calls)
    _replayed(graph)
    return sorted(_replayed(graph) / calls for _ in range(replays))


def _graph_of(run: Callable[[], object], calls: int) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            run()
    return graph


def _replayed(graph: torch.cuda.CUDAGraph) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1e3


class Copies:
    """What moving so many bytes takes at best: half of them in, half of them out, by copies that are measured once each."""

    _LARGE = (1 << 27, 1 << 28, 1 << 29)

    def __init__(self) -> None:
        self._measured: dict[int, float] = {}
        self._launch = self._copy(1024)
        self.bandwidth = max(size / self._copy(size) for size in self._LARGE)
        """Bytes in a microsecond, of the fastest copy."""

    def floor(self, size: int) -> float:
        """Return the microseconds of a copy that moves as many bytes, or what the fastest copy's bandwidth makes of it, if that is less."""
        return min(self._copy(size), self._launch + size / self.bandwidth) if size < 1 << 30 else size / self.bandwidth

    def _copy(self, size: int) -> float:
        if size not in self._measured:
            source, destination = (torch.empty(max(1, size // 4), device="cuda", dtype=torch.bfloat16).normal_() for _ in range(2))
            self._measured[size] = median(microseconds(lambda: destination.copy_(source)))
        return self._measured[size]


def in_other_processes(function: Callable[[Any], object], jobs: Iterable[Any], processes: int = 14) -> list[str]:
    """Call the function with each job, in forks of this process, and return what went wrong.

    For what compiles: the other processes' caches on disk are this one's too. This process must not have used CUDA before.
    """
    global _function
    _function = function  # a fork has it without pickling
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        return [problem for problem in pool.map(_guarded, list(jobs), chunksize=1) if problem]


_function: Callable[[Any], object] = print


def _guarded(job: Any) -> str | None:
    try:
        _function(job)
    except Exception as error:  # what cannot be compiled fails again where it is measured, and is told there
        return f"{job}: {error!r}"[:400]
    return None
