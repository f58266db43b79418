"""`fxkernels tune` measures how fast the kernels of a model are, and `fxkernels numerics` how far each is from its layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch

from .factory import Example, load_example, offered_mapping, target_arguments
from .output import CommandError, check_output, described

if TYPE_CHECKING:
    from ..debug.deviations import Numerics
    from ..selection.tuned_plan import TunedPlan


@click.command(short_help="Measure which kernels make your model faster, and save that as a plan.")
@target_arguments
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The plan, a .json file.")
@click.option("--device", help="Where the model is built and measured.  [default: a GPU where there is one; a factory's model as it is]")
@click.option("--inner-mode", help='The mode of Inductor that you will use, e.g. "reduce-overhead".')
@click.option("--budget", type=click.FloatRange(min=0), default=600.0, show_default=True, help="Seconds for timing layer calls.")
def tune(
    target: str,
    config: tuple[str, ...],
    mode: str | None,
    builtin: bool,
    show_traceback: bool,
    output: Path,
    device: str | None,
    inner_mode: str | None,
    budget: float,
) -> None:
    """Time the kernels that fit a model's layer calls against Inductor's own code, then the whole model with those that won, and write the
    plan that came out fastest. It is meant to be committed and reviewed, and is used as

    \b
      torch.compile(model, backend="hubkernels", options={"plan": "plan.json"})

    TARGET is what `fxkernels explain` takes. Tune with the sizes that you will run: a call with other inputs keeps its original layer,
    with a warning. Interrupted by Ctrl-C, it keeps what was timed, and the next run goes on from there.

    \b
    Examples:
      fxkernels tune mymodel:build -o plan.json
      fxkernels tune mymodel:build -o plan.json --mode training
      fxkernels tune hf:llama --config num_hidden_layers=4 -o plan.json --inner-mode reduce-overhead
    """
    check_output(output, ".json")
    torch.manual_seed(0)
    example = load_example(target, config, mode, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    plan = _tuned(target, example, builtin, inner_mode, budget, show_traceback)
    try:
        plan.write(output)
    except OSError as error:
        raise CommandError(f"{output} cannot be written: {error.strerror}") from error
    kernels = sum(len(entry.calls) for entry in plan.calls if entry.kernel is not None)
    calls = sum(len(entry.calls) for entry in plan.calls)
    click.echo(f"wrote {output}: {kernels} of {calls} layer calls run a kernel, measured on {plan.device}")


def _tuned(name: str, example: Example, builtin: bool, inner_mode: str | None, budget: float, show_traceback: bool) -> TunedPlan:
    from ..tuning import tune as tuned

    try:
        return tuned(*example, mapping=offered_mapping(builtin), inner_mode=inner_mode, budget=budget, tell=click.echo)
    except KeyboardInterrupt:
        click.echo("interrupted: the times of layer calls so far are kept, and the same command goes on from there", err=True)
        raise
    except Exception as error:  # the user's model may raise anything
        if show_traceback:
            raise
        raise CommandError(f"{name} cannot be tuned: {described(error)}") from error


@click.command(short_help="Rank a model's kernels by how far they are off.")
@target_arguments
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw it too, as an SVG file.")
@click.option("--unverified", is_flag=True, help="Also use kernels that no probe would let pass, to see what they do.")
def numerics(
    target: str, config: tuple[str, ...], mode: str | None, builtin: bool, show_traceback: bool, plot: Path | None, unverified: bool
) -> None:
    """Run a model once with its kernels and once without, call by call on the same inputs, and show which kernels are how far off.

    TARGET is what `fxkernels explain` takes. An hf: architecture gets random weights, so choose a small one with --config.

    \b
    Examples:
      fxkernels numerics mymodel:build
      fxkernels numerics mymodel:build --unverified --plot numerics.svg
      fxkernels numerics hf:llama --config num_hidden_layers=2
    """
    if plot is not None:
        check_output(plot, ".svg")
    torch.manual_seed(0)
    found = _measured(target, load_example(target, config, mode, device="cpu"), builtin, unverified, show_traceback)
    click.echo(str(found))
    if plot is not None:
        found.plot(plot)
        click.echo(f"wrote {plot}", err=True)


def _measured(name: str, example: Example, builtin: bool, unverified: bool, show_traceback: bool) -> Numerics:
    from .. import kernelize
    from .. import numerics as measure
    from ..capture._torch import unlogged_fakes

    try:
        run: Any = kernelize(example.model, mapping=offered_mapping(builtin), verify="off" if unverified else None)
        with torch.no_grad(), unlogged_fakes():
            run(*example.args, **example.kwargs)
        return measure(run, *example.args, **example.kwargs)
    except Exception as error:  # the user's model may raise anything
        if show_traceback:
            raise
        raise CommandError(f"{name} cannot be measured: {described(error)}") from error
