"""How every benchmark here measures: two sides, alternating, and one JSON line.

A script builds two callables that each do one run and return its seconds, and hands them to `compare`. What a row says is a ratio of
medians from the same minutes on the same machine; the medians alone depend on both.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

__all__ = ["compare", "origin", "per_call", "print_row"]

Run = Callable[[], float]


def compare(question: str, sides: dict[str, Run], runs: int = 5) -> dict[str, Any]:
    """Run two sides alternately and return the row: medians, their ratio, spread, versions, machine kind.

    Args:
        question: What the row answers, unique within its results file.
        sides: Name -> a callable that does one run and returns its seconds; exactly two. `ratio` is the first median over the second. A
            side that should not be timed cold warms itself up before (as `per_call` does).
        runs: Runs per side.

    Raises:
        ValueError: If there are not two sides.

    Example:
        >>> sides = {"silu": per_call(lambda: F.silu(x)), "relu": per_call(lambda: F.relu(x))}
        >>> print_row(compare("activation of 1000x1000", sides))
    """
    if len(sides) != 2:
        raise ValueError(f"a row compares two sides, got {len(sides)}: {', '.join(sides)}")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, run in sides.items():
            seconds[name].append(run())
    first, second = seconds.values()
    # The spread is that of neighbours in time: a slow minute of a shared machine hits both.
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    return {
        "question": question,
        "sides": {name: median(values) for name, values in seconds.items()},
        "ratio": median(first) / median(second),
        "spread": [min(ratios), max(ratios)],
        "runs": runs,
        **origin(),
    }


def origin(packages: tuple[str, ...] = ("torch", "transformers")) -> dict[str, Any]:
    """Return what a row says of where it comes from: the command, the versions of Python and of these packages, the machine's kind."""
    return {"command": _command(), "versions": _versions(packages), "machine": _machine()}


def per_call(function: Callable[[], object], seconds: float = 0.3) -> Run:
    """Return a run that calls `function` as often as fits into about `seconds` and returns the seconds of its fastest call.

    The fastest, because what else runs on the machine can only add to a call. How many fit is found by two calls before, the warm-up.
    """
    function()
    calls = max(1, int(seconds / _timed(function)))
    return lambda: min(_timed(function) for _ in range(calls))


def _timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def print_row(row: dict[str, Any]) -> None:
    """Print a row as one JSON line, four significant digits per figure."""
    # In one write: several commands may append to one file.
    sys.stdout.write(f"{json.dumps(_rounded(row))}\n")
    sys.stdout.flush()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _command() -> str:
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _machine() -> str:
    kind = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{kind}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else kind
