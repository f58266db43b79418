"""How fast are whole models, and what do they take in memory and in compiling: every peer side by side in one process.

One JSON line per cell, printed as soon as it is known: milliseconds of a step, peak memory, seconds of the first call, how far the result
is from eager's, and of fxkernels' sides what became of the layer calls. A side that fails, is wrong or is left out is a line that says so;
tracebacks and progress go to stderr.
"""

from __future__ import annotations

import logging
import math
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from measure import origin, print_row
from torch import Tensor
from whole_models.apart import in_place
from whole_models.architectures import gated_delta_net
from whole_models.conditions import at_most, caches_in, forget, stop_probing, turn
from whole_models.measuring import described, first_calls, in_rounds, outcomes
from whole_models.sides import NEEDS_GPU, SIDES, make_side, mapping_of
from whole_models.step import Step
from whole_models.workload import Workload
from whole_models.workloads import SIZES, workloads

import fxkernels
from fxkernels.selection import benchmark

NAMES = [workload.name for workload in workloads("tiny")]
PACKAGES = ("torch", "triton", "transformers", "kernels", "liger-kernel", "fla-core")
SAME_CODE = {"reduce-overhead": "inductor", "hubkernels+reduce-overhead": "hubkernels"}
"""Sides that find kernels of another one in the cache: their first call is none with an empty cache."""


@dataclass(frozen=True)
class Bench:
    """How the sides of a workload are measured.

    Args:
        device: ``"cuda"`` or ``"cpu"``.
        runs: Rounds.
        seconds: About how long each side runs in a round.
        limit: How many seconds the first calls of a side may take.
        turns: A file by which processes that measure at once take turns, see `turn`.
        deadline: When, by the monotonic clock, no further side or round is begun, and a side's first calls are interrupted.
    """

    device: str
    runs: int
    seconds: float
    limit: int
    turns: Path | None = None
    deadline: float = math.inf

    def cells(self, workload: Workload, sides: dict[str, str | None]) -> Iterator[dict[str, Any]]:
        """The rows of a workload, each as soon as it is complete.

        Args:
            workload: What is run.
            sides: Name of a side -> why it is left out, or None.
        """
        rows = {name: {"workload": workload.name, "title": workload.title, "side": name} for name in sides}
        steps: dict[str, Step] = {}
        expected: list[Tensor] | None = None
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            weights = workload.build(self.device).state_dict()
            tuned = self.tune(workload, weights, Path(folder, "tuned"))
            for name, reason in sides.items():
                if reason is not None:
                    yield rows[name] | {"left out": reason}
                    continue
                try:
                    with (
                        turn(self.turns, alone=False),
                        at_most(self.limit, self.deadline),
                        caches_in(Path(folder, SAME_CODE.get(name, name)), tuned) as warm,
                    ):
                        step = self.step(name, workload, weights)
                        figures, outcome = first_calls(step, expected)
                except Exception as error:
                    traceback.print_exc()
                    stop_probing()
                    yield rows[name] | {"error": described(error)}
                    continue
                click.echo(f"{workload.name}, {name}: first call {figures['first call']:.1f} s", err=True)
                rows[name] |= figures | {"cold": not warm}
                steps[name] = step
                expected = outcome if name == "eager" else expected
            with turn(self.turns, alone=True):
                for name, found in in_rounds(steps, self.runs, self.seconds, self.deadline):
                    yield rows[name] | found

    def step(self, name: str, workload: Workload, weights: dict[str, Tensor]) -> Step:
        """A side with a model and arguments of its own."""
        model = workload.build(self.device, weights)
        return Step(make_side(name, model, workload, self.device), workload, workload.arguments(model, self.device), self.device)

    def tune(self, workload: Workload, weights: dict[str, Tensor], folder: Path) -> Path | None:
        """Run the side that tunes kernels which are everybody's, so that the first to use them does not pay for all; the folder."""
        if workload.tuned_by is None or self.device == "cpu":
            return None
        start = time.monotonic()
        try:
            with turn(self.turns, alone=True), at_most(self.limit, self.deadline), caches_in(folder):
                step = self.step(workload.tuned_by, workload, weights)
                with in_place(step.side.changes):
                    step()
        except Exception as error:
            traceback.print_exc()
            click.echo(f"{workload.name}: not tuned, so whoever needs it first will tune: {described(error)}", err=True)
            return None
        click.echo(f"{workload.name}: tuned in {time.monotonic() - start:.1f} s", err=True)
        return folder


def annotated(workload: Workload, device: str) -> dict[str, int]:
    """How many layer calls a model of one layer has, by layer name.

    Raises:
        click.ClickException: If there are none: this transformers and this `kernels` do not go together.
    """
    model = workload.build(device, layers=1)
    with fxkernels.use_kernel_mapping(mapping_of(workload)):
        _, layers = outcomes(fxkernels.explain(model, **workload.arguments(model, device)))
    if not layers:
        raise click.ClickException(f"{workload.name}: no layer of the model is annotated; transformers 5.22.2 needs kernels 0.17.2")
    return {name: sum(counts.values()) for name, counts in layers.items()}


def reasons(workload: Workload, device: str, wanted: tuple[str, ...], left_out: tuple[str, ...]) -> dict[str, str | None]:
    """Each side that is to have a row, in the order in which they are made, with why it is not run, or None."""
    found: dict[str, str | None] = {}
    for name in sorted(SIDES, key=lambda name: name in workload.last):
        if wanted and name not in (*wanted, "eager"):
            continue
        found[name] = workload.left_out.get(name)
        if device == "cpu" and name in NEEDS_GPU:
            found[name] = "needs a GPU"
        if name in left_out or f"{workload.name}:{name}" in left_out:
            found[name] = "not asked for"
    return found


def start(device: str) -> None:
    """Import and compile something small, so that no side pays for what a process does once."""
    gated_delta_net()
    x = torch.ones(64, 64, device=device, requires_grad=True)
    torch.compile(lambda x: (x @ x).softmax(-1).sum())(x).backward()


def take_turns_to_time(turns: Path) -> None:
    """Let only one process at a time hold a contest. Others may compile meanwhile: the sides of a contest alternate within milliseconds."""
    times_of = benchmark.times_of

    def alone(*arguments: Any) -> Any:
        with turn(turns.with_name(f"{turns.name}-contests"), alone=True):
            return times_of(*arguments)

    benchmark.times_of = alone


def set_logs_up() -> None:
    """Keep what peers say of layers without a kernel, and torch of precision, out of the way; let fxkernels tell what it has timed."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("fxkernels").setLevel(logging.INFO)
    for name in ("kernels", "transformers", "liger_kernel", "torch._higher_order_ops.triton_kernel_wrap"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"torch\.|transformers\.|fla\.|liger_kernel\.")


def known_sides(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """What is to be left out, if there are such sides."""
    unknown = [value for value in values if value.rpartition(":")[2] not in SIDES or value.rpartition(":")[0] not in ("", *NAMES)]
    if unknown:
        raise click.BadParameter(f"no such side: {', '.join(unknown)}; there are {', '.join(SIDES)}")
    return values


@click.command(help=__doc__)
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--size", type=click.Choice(SIZES), help="By default full on a GPU, small on a CPU.")
@click.option("--layers", type=int, help="Of each model, instead of its usual number.")
@click.option("--side", "sides", multiple=True, type=click.Choice(list(SIDES)), help="Only these, and eager.")
@click.option("--leave-out", multiple=True, callback=known_sides, metavar="[WORKLOAD:]SIDE", help="Not these.")
@click.option("--runs", default=9, show_default=True, help="Rounds.")
@click.option("--seconds", default=0.15, show_default=True, help="About how long a side runs in a round.")
@click.option("--limit", default=150, show_default=True, help="Seconds that the first calls of a side may take.")
@click.option("--threads", type=int, help="Threads of torch; by default its own choice. One is steadier where other programs run.")
@click.option("--turns", type=click.Path(path_type=Path), help="A file by which several of these commands, run at once, take turns.")
@click.option("--until", default=math.inf, help="After so many seconds no side and no round is begun; what has been timed is printed.")
def main(
    names: tuple[str, ...],
    device: str,
    size: str | None,
    layers: int | None,
    sides: tuple[str, ...],
    leave_out: tuple[str, ...],
    runs: int,
    seconds: float,
    limit: int,
    threads: int | None,
    turns: Path | None,
    until: float,
) -> None:
    began = time.monotonic()
    set_logs_up()
    if threads is not None:
        torch.set_num_threads(threads)
    # Sides run the same code of transformers, each with a model of its own, and each has to be compiled.
    torch._dynamo.config.recompile_limit = 64
    if turns is not None:
        take_turns_to_time(turns)
    start(device)
    told = origin(PACKAGES) | {"runs": runs}
    bench = Bench(device, runs, seconds, limit, turns, began + until)
    for workload in workloads(size or ("full" if device == "cuda" else "small"), layers):
        if names and workload.name not in names:
            continue
        told["annotated in a layer"] = annotated(workload, device)
        wanted = reasons(workload, device, sides, leave_out)
        for row in bench.cells(workload, wanted):
            print_row(row | told)
        forget(device)


if __name__ == "__main__":
    main()
