"""`fxkernels demo`: a small decoder rewritten, reported, checked and timed in front of the user."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, cast

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from ..mapping import KernelMapping
    from ..report.report import Report

Run = Callable[[Tensor], Tensor]

_COMPILED = "torch.compile, Inductor"
_OURS = "hubkernels, Inductor"


@click.command(short_help="See a small model rewritten, checked and timed.")
@click.option("--repeats", type=click.IntRange(min=1), default=7, show_default=True, help="Timed runs of each side, in turns.")
@click.option("--length", type=click.IntRange(2, 2048), default=512, show_default=True, help="Tokens in the example.")
@click.option("--layers", type=click.IntRange(min=1), default=4, show_default=True, help="Layers of the decoder.")
@click.option(
    "--compile/--no-compile",
    "compile_",
    default=True,
    help="Time torch.compile with Inductor too (needs a C++ compiler, takes about a minute).",
)
def demo(repeats: int, length: int, layers: int, compile_: bool) -> None:
    """Kernelize a small decoder with the built-in kernels and show what was rewritten, that the numbers agree, and how fast it is.

    Runs on the CPU and downloads nothing. The exit code is 1 if nothing was rewritten or the numbers disagree.

    \b
    Examples:
      fxkernels demo
      fxkernels demo --no-compile --repeats 50
    """
    from .. import kernelize
    from ..demo_model import decoder

    model, (input_ids,) = decoder(length=length, layers=layers)
    mapping = _mapping()
    click.echo(f"A decoder with {sum(p.numel() for p in model.parameters()):,} random weights, {length} tokens.\n")
    kernelized = kernelize(model, mapping=mapping)
    expected = outputs_of(model, input_ids)
    differences = [
        output_difference("outputs", expected, outputs_of(kernelized, input_ids)),
        gradient_difference(gradients_of(model, input_ids), gradients_of(kernelized, input_ids)),
    ]
    report = cast("Report", kernelized.report)
    _show_report(report)
    sides: dict[str, Run] = {"eager": model, "kernelized": kernelized}
    if compile_:
        sides |= _compiled(model, mapping, input_ids)
    if _OURS in sides:
        differences.append(output_difference("outputs with Inductor", expected, outputs_of(sides[_OURS], input_ids)))
    _show_differences(differences)
    _show_times(sides, input_ids, repeats)
    failed = failures(report, differences)
    if failed:
        raise click.ClickException("; ".join(failed))
    click.echo("Next: fxkernels explain module:factory   what kernels would do in your own model")
    click.echo("      fxkernels.kernelize(model)         runs them from Python, see README.md")


def _mapping() -> KernelMapping:
    """Return all built-in kernels, including those that the default mapping leaves out."""
    from ..builtin import BUILTIN_LAYERS, builtin_mapping, builtin_repository
    from ..mapping import KernelMapping

    left_out = sorted(set(BUILTIN_LAYERS) - set(builtin_mapping()))
    if left_out:
        _say(f"Used here, but not in builtin_mapping(), because not everywhere 1.1x as fast as eager: {', '.join(left_out)}.")
    return KernelMapping.of({name: {"cpu": builtin_repository(name)} for name in BUILTIN_LAYERS})


def _compiled(model: nn.Module, mapping: KernelMapping, input_ids: Tensor) -> dict[str, Run]:
    """Compile with Inductor, without and with kernels. Where Inductor itself fails, it is left out of the demo."""
    from .. import hubkernels

    missing = missing_compiler()
    if missing is not None:
        _say(f"torch.compile with Inductor is left out: there is no {missing}.")
        click.echo()
        return {}
    click.echo("Compiling with Inductor, twice ...", err=True)
    plain = torch.compile(model)
    try:
        outputs_of(plain, input_ids)
    except Exception as error:  # whatever a broken compiler set-up makes Inductor raise
        lines = str(error).strip().splitlines() or [""]
        _say(f"torch.compile with Inductor is left out, it fails on this machine: {type(error).__name__}: {lines[0]}")
        click.echo()
        return {}
    backend = hubkernels(mapping=mapping)
    ours = torch.compile(model, backend=backend)
    outputs_of(ours, input_ids)
    click.echo(f'The same with torch.compile(backend="hubkernels"): {backend.report.summary}\n')
    return {_COMPILED: plain, _OURS: ours}


def _show_report(report: Report) -> None:
    from ..report.terminal import print_report

    print_report(report)
    click.echo()


def _show_differences(differences: Iterable[Difference]) -> None:
    click.echo("Largest difference to the eager model")
    for difference in differences:
        verdict = "agrees" if difference.agrees else "DISAGREES"
        where = f"\n    the worst is {difference.where}" if difference.where else ""
        click.echo(f"  {difference.what:<22} {difference.largest:8.1e}   tolerance {difference.tolerance:8.1e}   {verdict}{where}")
    click.echo()


def _show_times(sides: dict[str, Run], input_ids: Tensor, repeats: int) -> None:

    def forward(side: Run) -> Callable[[], Any]:
        return lambda: outputs_of(side, input_ids)

    seconds = medians({name: forward(side) for name, side in sides.items()}, repeats)
    click.echo(f"Forward, median of {repeats} {'run' if repeats == 1 else 'alternating runs'}")
    for name, value in seconds.items():
        click.echo(f"  {name:<24} {1e3 * value:8.1f} ms   {seconds['eager'] / value:5.2f}x the speed of eager")
    click.echo()


def failures(report: Report, differences: Iterable[Difference]) -> list[str]:
    """Return a sentence for everything that makes the demo a failure."""
    found = [f"{d.what} differ by {d.largest:.1e}, which is more than {d.tolerance:.1e}" for d in differences if not d.agrees]
    return found if report.rewritten else [*found, "no layer call was rewritten"]


def _say(paragraph: str) -> None:
    click.echo(click.wrap_text(paragraph, 80))


# --- what it measures -----------------------------------------------------------------------------------------------------------------

OUTPUT_TOLERANCE = 1e-5
"""The largest difference of outputs, relative to the largest value. The order of a sum of thousands of numbers in float32 changes less."""

GRADIENT_TOLERANCE = 1e-4
"""The same for gradients, which go through more of such sums. A wrong gradient differs by 1e-2 and more."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two runs are apart.

    Args:
        what: What was compared.
        largest: The largest absolute difference.
        tolerance: What it may be.
        where: Which of several tensors that is.
    """

    what: str
    largest: float
    tolerance: float
    where: str = ""

    @property
    def agrees(self) -> bool:
        """Return whether it is within the tolerance; a NaN is not."""
        return self.largest <= self.tolerance


def output_difference(what: str, expected: Tensor, actual: Tensor) -> Difference:
    """Return how far two outputs are apart."""
    return _difference(what, expected, actual, OUTPUT_TOLERANCE)


def gradient_difference(expected: dict[str, Tensor], actual: dict[str, Tensor]) -> Difference:
    """Return the difference of the parameter whose gradient uses up most of its tolerance, or is not a number."""
    differences = [_difference("gradients", expected[name], actual[name], GRADIENT_TOLERANCE, name) for name in expected]
    return max(differences, key=lambda d: (not d.agrees, d.largest / d.tolerance if d.tolerance else 0.0))


def outputs_of(model: Callable[[Tensor], Tensor], input_ids: Tensor) -> Tensor:
    """Return the model's logits, without a gradient."""
    with torch.no_grad():
        return model(input_ids)


def gradients_of(model: nn.Module, input_ids: Tensor) -> dict[str, Tensor]:
    """Return the gradients of the next-token loss for all parameters, in training mode; `.grad` and the mode stay as they were."""
    parameters = dict(model.named_parameters())
    training = model.training
    logits = model.train()(input_ids)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    model.train(training)
    return dict(zip(parameters, gradients, strict=True))


def medians(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each side. The sides take turns, so that a slow minute of the machine hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def missing_compiler() -> str | None:
    """Return the name of the C++ compiler that Inductor would call on a CPU if it is not installed, else None."""
    command = shlex.split(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))
    return None if command and shutil.which(command[0]) else " ".join(command) or "a C++ compiler"


def _difference(what: str, expected: Tensor, actual: Tensor, tolerance: float, where: str = "") -> Difference:
    return Difference(what, (actual - expected).abs().max().item(), tolerance * expected.abs().max().item(), where)
