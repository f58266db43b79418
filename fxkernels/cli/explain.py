"""`fxkernels explain`: the report of any model that a factory makes."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import click
from torch import nn

from .factory import Arguments, FactoryError, described, load_model

if TYPE_CHECKING:
    from ..report.model import Report


@click.command(short_help="Show which layers of your model would run kernels.")
@click.argument("factory", metavar="MODULE:FACTORY")
@click.option(
    "--mode",
    type=click.Choice(["inference", "training"]),
    help="Call model.eval() or model.train() first.  [default: as the factory returns it]",
)
@click.option(
    "--builtin/--no-builtin", default=True, show_default=True, help="Offer the built-in kernels too; what the module registers comes first."
)
@click.option("--traceback", "show_traceback", is_flag=True, help="Show the whole traceback where your code raises.")
def explain(factory: str, mode: str | None, builtin: bool, show_traceback: bool) -> None:
    """Show which layer calls of a model would run which kernel, and for every other call why it would not.

    FACTORY is a function without arguments that returns the model and example arguments: a tuple, or a dict of keyword arguments.
    MODULE is imported from the current directory or from the installed packages, and may register a kernel mapping. Nothing is
    rewritten.

    \b
    Examples:
      fxkernels explain mymodel:build
      fxkernels explain fxkernels.demo_model:decoder
      fxkernels explain mymodel:build --mode training --no-builtin
    """
    try:
        model, arguments = load_model(factory)
        if mode is not None:
            model.train(mode == "training")
        report = _report(factory, model, arguments, builtin)
    except FactoryError as error:
        if show_traceback and error.__cause__ is not None:
            click.echo("".join(traceback.format_exception(error.__cause__)), err=True, nl=False)
        raise
    from ..report.terminal import print_report

    state = "training" if model.training else "eval"
    click.echo(f"{factory}: {type(model).__name__} in {state} mode{'' if mode else ', as the factory returned it'}")
    print_report(report)


def _report(factory: str, model: nn.Module, arguments: Arguments, builtin: bool) -> Report:
    from .. import explain as explain_model
    from ..builtin import builtin_mapping
    from ..errors import FxKernelsError
    from ..mapping import KernelMapping, current_mapping, use_kernel_mapping

    mapping = KernelMapping.of(builtin_mapping()).merged(current_mapping()) if builtin else current_mapping()
    args, kwargs = ((), arguments) if isinstance(arguments, dict) else (arguments, {})
    try:
        with use_kernel_mapping(mapping, inherit_mapping=False):
            return explain_model(model, *args, **kwargs)
    except FxKernelsError as error:
        raise FactoryError(str(error)) from error
    except Exception as error:
        own = _own_error(model, args, kwargs)
        if own is None:
            raise FactoryError(
                f"the model of {factory} runs with the example arguments but cannot be captured: {described(error)}"
            ) from error
        raise FactoryError(f"the model of {factory} raised when it was called with the example arguments: {described(own)}") from own


def _own_error(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Exception | None:
    """What the model raises by itself, which it says more clearly than a tracer that wraps its error."""
    import torch

    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception as error:  # other people's code; the caller reports it
        return error
    return None
