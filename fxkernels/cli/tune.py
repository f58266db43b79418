"""`fxkernels tune`: measures which kernels make a model faster, and writes that down as a plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import torch
from torch import nn

from .errors import FactoryError, described
from .explain import target_arguments
from .factory import Arguments, load_target

if TYPE_CHECKING:
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
    if output.suffix.lower() != ".json" or not output.parent.is_dir():
        raise FactoryError(f"{output} is to be a .json file in a folder that exists")
    torch.manual_seed(0)
    model, arguments = load_target(target, config, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if mode is not None:
        model.train(mode == "training")
    plan = _tuned(target, model, arguments, builtin, inner_mode, budget, show_traceback)
    try:
        plan.write(output)
    except OSError as error:
        raise FactoryError(f"{output} cannot be written: {error.strerror}") from error
    kernels = sum(len(entry.calls) for entry in plan.calls if entry.kernel is not None)
    calls = sum(len(entry.calls) for entry in plan.calls)
    click.echo(f"wrote {output}: {kernels} of {calls} layer calls run a kernel, measured on {plan.device}")


def _tuned(
    name: str, model: nn.Module, arguments: Arguments, builtin: bool, inner_mode: str | None, budget: float, show_traceback: bool
) -> TunedPlan:
    from ..builtin import builtin_mapping
    from ..mapping import KernelMapping, current_mapping
    from ..tuning import tune as tuned

    mapping = KernelMapping.of(builtin_mapping()).merged(current_mapping()) if builtin else current_mapping()
    args, kwargs = ((), arguments) if isinstance(arguments, dict) else (arguments, {})
    try:
        return tuned(model, args, kwargs, mapping=mapping, inner_mode=inner_mode, budget=budget, tell=click.echo)
    except KeyboardInterrupt:
        click.echo("interrupted: the times of layer calls so far are kept, and the same command goes on from there", err=True)
        raise
    except Exception as error:  # the user's model, and what is said of it
        if show_traceback:
            raise
        raise FactoryError(f"{name} cannot be tuned: {described(error)}") from error
