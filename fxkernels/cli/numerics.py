"""`fxkernels numerics`: how far each kernel of a model is from the layer that it replaces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch
from torch import nn

from .errors import FactoryError, described
from .explain import target_arguments
from .factory import Arguments, load_target

if TYPE_CHECKING:
    from ..culprit.deviations import Numerics


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
    if plot is not None and (plot.suffix.lower() != ".svg" or not plot.parent.is_dir()):
        raise FactoryError(f"{plot} has to be an .svg file in a folder that exists")
    torch.manual_seed(0)
    model, arguments = load_target(target, config, device="cpu")
    if mode is not None:
        model.train(mode == "training")
    found = _measured(target, model, arguments, builtin, unverified, show_traceback)
    click.echo(str(found))
    if plot is not None:
        found.plot(plot)
        click.echo(f"wrote {plot}", err=True)


def _measured(name: str, model: nn.Module, arguments: Arguments, builtin: bool, unverified: bool, show_traceback: bool) -> Numerics:
    from .. import kernelize
    from .. import numerics as measure
    from ..builtin import builtin_mapping
    from ..capture._torch import unlogged_fakes
    from ..mapping import KernelMapping, current_mapping

    mapping = KernelMapping.of(builtin_mapping()).merged(current_mapping()) if builtin else current_mapping()
    args, kwargs = ((), arguments) if isinstance(arguments, dict) else (arguments, {})
    try:
        run: Any = kernelize(model, mapping=mapping, verify="off" if unverified else None)
        with torch.no_grad(), unlogged_fakes():
            run(*args, **kwargs)
        return measure(run, *args, **kwargs)
    except Exception as error:  # the user's model, and what kernelize says of it
        if show_traceback:
            raise
        raise FactoryError(f"{name} cannot be measured: {described(error)}") from error
