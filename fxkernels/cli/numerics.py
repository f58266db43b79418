"""`fxkernels numerics`: how far each kernel of a model is from the layer that it replaces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch

from .errors import CommandError, check_output, described
from .factory import Example, load_example, offered_mapping, target_arguments

if TYPE_CHECKING:
    from ..debug.deviations import Numerics


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
