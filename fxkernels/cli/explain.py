"""`fxkernels explain`: the report of a model that the user names, for this machine or others."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch
from torch import nn

from .architectures import PREFIX
from .factory import Example, load_example, offered_mapping, target_arguments
from .output import CommandError, check_output, described

if TYPE_CHECKING:
    from ..report.matrix import Matrix
    from ..report.report import Report
    from ..target import Target


@click.command(short_help="Show which layers of your model would run kernels.")
@target_arguments
@click.option(
    "--for", "targets", multiple=True, metavar="DEVICE", help='Another machine, e.g. "cuda:sm90 torch2.11"; several make a table.'
)
@click.option("--diff", "as_diff", is_flag=True, help="Show what changes in the graph instead, as a unified diff.")
@click.option("--why", "name", metavar="PATH", help="Explain one layer call instead: every gate, and what would help.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write the report as a page for a browser too.")
@click.option(
    "--json", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), help="Write it as JSON too; - for standard output."
)
def explain(
    target: str, targets: tuple[str, ...], as_diff: bool, name: str | None, html: Path | None, json: Path | None, **how: Any
) -> None:
    """Show which layer calls of a model would run which kernel, and for every other call why it would not.

    TARGET is a function without arguments that returns the model and example arguments (a tuple, or a dict of keyword arguments), as
    MODULE:FUNCTION; or an architecture of transformers with random weights, as hf:NAME. MODULE is imported from the current directory
    or from the installed packages, and may register a kernel mapping. Nothing is rewritten, fetched or run.

    \b
    Examples:
      fxkernels explain mymodel:build
      fxkernels explain mymodel:build --mode training --no-builtin
      fxkernels explain mymodel:build --why model.layers.3.input_layernorm
      fxkernels explain mymodel:build --diff | less
      fxkernels explain mymodel:build --html report.html --json report.json
      fxkernels explain hf:llama --config num_hidden_layers=2
      fxkernels explain hf:qwen3 --for "cuda:sm90 torch2.11" --for cpu
    """
    if len(targets) > 1 and (as_diff or html or json):
        raise click.UsageError("--diff, --html and --json show one report; give --for once")
    files = [(path, suffix) for path, suffix in ((html, ".html"), (json, ".json")) if path is not None and str(path) != "-"]
    for path, suffix in files:
        check_output(path, suffix)
    model, found = explained(target, targets=targets, **how)
    reports = [(str(each), report) for each, report in found.items()] if isinstance(found, Mapping) else [("", found)]
    if json is not None and str(json) == "-":
        click.echo(reports[0][1].to_json())
    elif as_diff:
        click.echo(reports[0][1].diff())
    elif name is not None:
        click.echo("\n\n".join(_why(report, name, heading) for heading, report in reports))
    else:
        _show(target, model, found, asked_mode=how["mode"])
    for path, _ in files:
        _save(reports[0][1], path)


def explained(
    target: str,
    *,
    config: Sequence[str] = (),
    mode: str | None = None,
    builtin: bool = True,
    show_traceback: bool = False,
    targets: Sequence[str] = (),
) -> tuple[nn.Module, Report | Matrix]:
    """Return the model that a user names, and its report; for several targets, the matrix of its reports.

    Args:
        target: ``module:factory`` or ``hf:architecture``.
        config: Settings of an architecture, ``key=value``.
        mode: ``"inference"`` or ``"training"``, if the model is to be put into that mode first.
        builtin: Whether the built-in kernels are offered too.
        show_traceback: Whether the traceback of an error in the user's code is printed.
        targets: What kernels are chosen for, if not for this machine.

    Raises:
        CommandError: If there is no such model, or none that can be captured.
    """
    parsed = _parsed(targets)
    try:
        example = load_example(target, config, mode)
        return example.model, _report(target, example, builtin, parsed)
    except CommandError as error:
        if show_traceback and error.__cause__ is not None:
            click.echo("".join(traceback.format_exception(error.__cause__)), err=True, nl=False)
        raise


def _report(name: str, example: Example, builtin: bool, targets: Sequence[Target]) -> Report | Matrix:
    from .. import explain as explain_model
    from ..errors import FxKernelsError
    from ..mapping import use_kernel_mapping

    wanted: Any = targets if len(targets) > 1 else targets[0] if targets else None
    try:
        with use_kernel_mapping(offered_mapping(builtin), inherit_mapping=False):
            found: Report | Matrix = explain_model(example.model, *example.args, target=wanted, **example.kwargs)
            return found
    except FxKernelsError as error:
        raise CommandError(str(error)) from error
    except Exception as error:
        own = _own_error(example) if not name.startswith(PREFIX) else None
        if own is None:
            raise CommandError(
                f"the model of {name} runs with the example arguments but cannot be captured: {described(error)}"
                if not name.startswith(PREFIX)
                else f"{name} cannot be captured with the configuration that was asked for: {described(error)}"
            ) from error
        raise CommandError(f"the model of {name} raised when it was called with the example arguments: {described(own)}") from own


def _own_error(example: Example) -> Exception | None:
    """Return the error of the model itself, which is clearer than that of a tracer that wraps it."""
    try:
        with torch.no_grad():
            example.model(*example.args, **example.kwargs)
    except Exception as error:  # the user's code; the caller reports it
        return error
    return None


def _parsed(targets: Sequence[str]) -> tuple[Target, ...]:
    from ..target import Target

    try:
        return tuple(dict.fromkeys(Target.parse(text) for text in targets))
    except ValueError as error:
        raise CommandError(str(error)) from error


def _show(name: str, model: nn.Module, found: Report | Matrix, asked_mode: str | None) -> None:
    from ..report.terminal import print_report

    state = "training" if model.training else "eval"
    whose = "" if asked_mode or name.startswith(PREFIX) else ", as the factory returned it"
    click.echo(f"{name}: {type(model).__name__} in {state} mode{whose}")
    if isinstance(found, Mapping):
        click.echo(str(found))
    else:
        print_report(found)


def _why(report: Report, name: str, heading: str) -> str:
    try:
        text = str(report.why(name))
    except ValueError as error:
        raise CommandError(str(error)) from error
    return f"{heading}\n\n{text}" if heading else text


def _save(report: Report, path: Path) -> None:
    try:
        report.save(path)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error
    click.echo(f"wrote {path}", err=True)
