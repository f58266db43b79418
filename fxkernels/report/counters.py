"""Run-time counters: how often each layer call has run its kernel, the original layer, and the original's recomputed gradient.

A compiled graph runs no Python of ours, so nothing inside it can count. But each run of a graph runs all calls in it once, and each
backward through it takes all their gradients once. So runs of graphs are counted, around the graph, and reported for each call. With
``counters=True`` a run of a graph costs one call of a small function more; without, nothing.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from ..kernels.call import KernelCall
from ..kernels.second_order import nodes_between
from ..passes.plan import Decision

_COMPILED_BACKWARD = "CompiledFunctionBackward"
"""The autograd node of a graph that AOTAutograd has compiled (torch 2.11, 2.13)."""


class RunCounters(Mapping[str, Counter[str]]):
    """By a call's key, how often it ran ``kernel``, ``reference`` (the original layer), or ``recomputed`` (the original once more, for a
    gradient that the kernel does not have). A mapping that goes on counting; ``dict(counters)`` is a copy as of now.

    A call counts once for each run of its graph: one in a branch of `torch.cond` also if the other branch is taken, one in a checkpoint
    not again for the backward. What Dynamo has not captured is not counted.

    Example:
        >>> model = kernelize(model, counters=True)
        >>> model(x)
        >>> model.report.ran["layers.0.norm#0"]
        Counter({'kernel': 1})
    """

    def __init__(self) -> None:
        self._graphs: list[_Graph] = []
        self._lock = threading.Lock()

    def graph(self, decisions: Iterable[tuple[str, Decision]]) -> _Graph:
        """Begin to count the runs of one more graph with these calls."""
        graph = _Graph(decisions)
        with self._lock:
            self._graphs.append(graph)
        return graph

    def __getitem__(self, key: str) -> Counter[str]:
        return self._counts()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts())

    def __len__(self) -> int:
        return len(self._counts())

    def __repr__(self) -> str:
        return f"RunCounters({self._counts()})"

    def __str__(self) -> str:
        counts = self._counts()
        if not counts:
            return "no layer call has run yet"
        width = max(map(len, counts))
        return "\n".join(f"{key.ljust(width)}  {', '.join(f'{what} {n}' for what, n in found.items())}" for key, found in counts.items())

    def _counts(self) -> dict[str, Counter[str]]:
        counts: dict[str, Counter[str]] = {}
        with self._lock:
            graphs = tuple(self._graphs)
        for graph in graphs:
            for key, what, number in graph.counts():
                if number:
                    counts.setdefault(key, Counter())[what] += number
        return counts


def counted(compiled: Callable[..., Any], entries: Iterable[tuple[RunCounters | None, str, Decision]]) -> Callable[..., Any]:
    """Return a compiled graph that counts its runs; the very same one if there are no counters.

    Args:
        compiled: Runs the graph.
        entries: For each of its calls who counts it, its key, and what was decided.
    """
    by_counters: dict[int, tuple[RunCounters, list[tuple[str, Decision]]]] = {}
    for counters, key, decision in entries:
        if counters is not None:
            by_counters.setdefault(id(counters), (counters, []))[1].append((key, decision))
    graphs = [counters.graph(decisions) for counters, decisions in by_counters.values()]
    if not graphs:
        return compiled

    def run(*inputs: Any) -> Any:
        output = compiled(*inputs)
        for graph in graphs:
            graph.has_run(output, inputs)
        return output

    return run


class _Graph:
    """The calls of one graph, and how often it has run."""

    def __init__(self, decisions: Iterable[tuple[str, Decision]]) -> None:
        self._calls: dict[str, KernelCall | None] = {}
        self._runs = self._backwards = 0
        self._recomputed: Counter[str] = Counter()
        self._lock = threading.Lock()
        for key, decision in decisions:
            target = decision.replacement.target if decision.replacement is not None else None
            call = target if isinstance(target, KernelCall) else None
            if call is not None:
                call.watch_recomputation(functools.partial(self._has_recomputed, key))
            if decision.status != "covered":
                self._calls[key] = call

    def has_run(self, output: Any, inputs: tuple[Any, ...]) -> None:
        """Count one run, and have the backward through it counted, if there will be one that recomputes."""
        with self._lock:
            self._runs += 1
        if not torch.is_grad_enabled() or not any(call is not None and call.recomputes for call in self._calls.values()):
            return
        outputs = [value for value in (output if isinstance(output, tuple | list) else (output,)) if isinstance(value, torch.Tensor)]
        for node in nodes_between(outputs, inputs):
            if node.name() == _COMPILED_BACKWARD:
                node.register_prehook(self._goes_backward)

    def counts(self) -> Iterator[tuple[str, str, int]]:
        """Yield for each call what it has run, and how often."""
        for key, call in self._calls.items():
            yield key, "kernel" if call is not None else "reference", self._runs
            if call is not None and call.recomputes:
                # One of the two is zero: Python that a compiler has taken over does not run.
                yield key, "recomputed", self._recomputed[key] + self._backwards

    def _goes_backward(self, gradients: Any) -> None:
        with self._lock:
            self._backwards += 1

    def _has_recomputed(self, key: str) -> None:
        with self._lock:
            self._recomputed[key] += 1
