"""How sides are measured: each one's first calls alone, then their times in rounds, a batch of calls of each side by turns."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from statistics import median
from typing import Any

from torch import Tensor
from torch._dynamo.utils import counters

from .apart import Shared, in_place
from .step import Step, peak_bytes

GIB = 2**30


def first_calls(step: Step, expected: list[Tensor] | None) -> tuple[dict[str, Any], list[Tensor]]:
    """The part of a row that does not need the other sides, and what the side has computed.

    Args:
        step: What has not been called yet.
        expected: What eager has computed; None if this is eager.

    Raises:
        ValueError: If it is farther off than the workload allows.
        RuntimeError: If it is to be compiled and was not.
    """
    row: dict[str, Any] = {}
    step.workload.rewind(step.inputs)
    compiled = counters["stats"]["unique_graphs"]
    with in_place(step.side.changes):
        start = time.perf_counter()
        step()
        step.wait()
        row["first call"] = time.perf_counter() - start
        if step.device == "cuda":
            # In the second call CUDA graphs are recorded; replaying them allocates nothing that anybody counts.
            row["peak GiB"] = peak_bytes(step) / GIB
        found = step.outcome()
    if expected is not None:
        row["off by"] = off_by(found, expected)
        if not row["off by"] <= step.workload.tolerance:  # NaN is no agreement either
            raise ValueError(f"its result is off by {row['off by']:.2g} of eager's, more than {step.workload.tolerance}")
    if step.side.compiles and counters["stats"]["unique_graphs"] == compiled:
        raise RuntimeError("nothing was compiled for it: it has run what belongs to another side")
    if step.side.report is not None:
        row["calls"], row["layers"] = outcomes(step.side.report())
    return row, found


def off_by(found: list[Tensor], expected: list[Tensor]) -> float:
    """How far off a result is, in the norm, relative to what was expected: the output, or all gradients as one, whichever is worse.

    Raises:
        ValueError: If there are not as many gradients.
    """
    if len(found) != len(expected):
        raise ValueError(f"it has {len(found) - 1} gradients, eager has {len(expected) - 1}")
    parts = [(found[:1], expected[:1]), (found[1:], expected[1:])]
    return max(_relative(*part) for part in parts if part[0])


def _relative(found: list[Tensor], expected: list[Tensor]) -> float:
    difference = sum(float((a.float() - b.float()).square().sum()) for a, b in zip(found, expected, strict=True))
    return float((difference / sum(float(b.float().square().sum()) for b in expected)) ** 0.5)


def outcomes(report: Any) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """What became of the layer calls, over all and by layer name. A miss counts under its code."""
    by_name: dict[str, Counter[str]] = {}
    for call in report.calls:
        by_name.setdefault(call.layer_name, Counter())[call.status if call.miss is None else call.miss.code] += 1
    return dict(sum(by_name.values(), Counter())), {name: dict(counts) for name, counts in by_name.items()}


def in_rounds(steps: dict[str, Step], runs: int, seconds: float, deadline: float = math.inf) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rest of each row, as the name of the side and what belongs into its row: the times, or an error.

    Args:
        steps: By name of the side, all of them called before.
        runs: How many rounds.
        seconds: About how long a batch takes.
        deadline: When, by the monotonic clock, no further round is begun after the first.
    """
    shared = Shared.now()
    errors: dict[str, str] = {}
    calls: dict[str, int] = {}
    times: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps.items())
    for number in range(runs):
        if number and time.monotonic() > deadline:
            break
        # There and back: a GPU is slower after work that has made it hot, so nobody may always come after the same side.
        for name, step in order if number % 2 == 0 else reversed(order):
            if name in errors:
                continue
            try:
                calls[name] = calls.get(name) or min(step.workload.calls, max(2, int(seconds * 1e3 / step.batch(1))))
                times[name].append(step.batch(calls[name]))
            except Exception as error:
                errors[name] = described(error)
            shared.check()
    for name, found in times.items():
        if name in errors:
            yield name, {"error": errors[name]}
        else:
            yield name, {"milliseconds": median(found), "spread": [min(found), max(found)], "rounds": found, "calls per round": calls[name]}


def described(error: BaseException) -> str:
    """An error as one line that is not too long."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"
