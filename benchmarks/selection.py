"""What does it cost to choose kernels by measuring? One subcommand per question, one JSON line per row.

`record`: the first call of a compiled Llama where all times are on record, against one that takes what the mapping prefers; to be about 1.
`contest`: one contest by Inductor on both sides, against the compilation of the model that it is for.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import click
import torch
from measure import compare, print_row
from overhead import INPUT, everything_mapped, llama, seconds_of

import fxkernels


@click.group(help=__doc__)
def main() -> None:
    os.environ["FXKERNELS_CACHE"] = tempfile.mkdtemp()  # the records of this run only
    os.environ["FXKERNELS_VERIFY"] = "off"


def first_call(model: torch.nn.Module, **options: Any) -> fxkernels.Report:
    """Compile the model anew and call it; the report."""
    torch._dynamo.reset()
    backend = fxkernels.hubkernels(mapping=everything_mapped(), **options)
    with torch.no_grad():
        torch.compile(model, backend=backend)(INPUT)
    return backend.report


@main.command()
@click.option("--layers", default=16, show_default=True)
@click.option("--runs", default=5, show_default=True)
def record(layers: int, runs: int) -> None:
    """With a record, no measurable cost."""
    torch.set_num_threads(1)
    model = llama(layers)

    def side(select: str) -> Callable[[], float]:
        return lambda: seconds_of(lambda: first_call(model, inner="eager", select=select))

    report = first_call(model, inner="eager", select="measured")
    row = compare(f"first call of a Llama of {layers} layers", {"measured": side("measured"), "first": side("first")}, runs)
    print_row(row | {"calls": len(report.calls)})


@main.command()
@click.option("--layers", default=16, show_default=True)
@click.option("--runs", default=3, show_default=True)
def contest(layers: int, runs: int) -> None:
    """Per contest, with nothing in Inductor's caches."""
    torch.set_num_threads(1)
    model = llama(layers)
    held = 0

    def measuring() -> float:
        nonlocal held
        os.environ["FXKERNELS_CACHE"] = tempfile.mkdtemp()
        with torch._inductor.utils.fresh_cache():
            torch._dynamo.reset()
            backend = fxkernels.hubkernels(mapping=everything_mapped(), select="measured", select_budget=1e6)
            with torch.no_grad():
                torch.compile(model, backend=backend)(INPUT)
        held = backend.session.cache.budget.held
        return backend.session.cache.budget.spent / held

    def compiling() -> float:
        with torch._inductor.utils.fresh_cache():
            start = time.perf_counter()
            first_call(model, select="first")
            return time.perf_counter() - start

    row = compare(f"Llama of {layers} layers, Inductor", {"one contest": measuring, "first call without": compiling}, runs)
    print_row(row | {"contests": held})


if __name__ == "__main__":
    main()
