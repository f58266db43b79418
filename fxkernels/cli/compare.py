"""`fxkernels diff`: what is different between two saved reports. `fxkernels check`: whether a model has lost a kernel since then."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from .explain import explained
from .factory import target_arguments
from .output import CommandError

if TYPE_CHECKING:
    from ..report.compare import Comparison
    from ..report.report import Report
    from ..target import Target


def saved_report(context: click.Context, parameter: click.Parameter, value: str) -> Report:
    """Return the report in the file that an argument names; the callback of such an argument. ``-`` is standard input."""
    from ..report.report import Report

    place = "standard input" if value == "-" else value
    try:
        with click.open_file(value, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise CommandError(f"{place} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{place}: this is no JSON report: it is not in UTF-8") from error
    try:
        return Report.from_json(text)
    except ValueError as error:
        raise CommandError(f"{place}: {error}") from error


@click.command(short_help="Compare two saved reports, like diff(1).")
@click.argument("before", metavar="A.json", callback=saved_report)
@click.argument("after", metavar="B.json", callback=saved_report)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing; the exit code tells.")
def diff(before: Report, after: Report, as_json: bool, quiet: bool) -> None:
    """Show what is different in B: versions, targets, captures, and the layer calls that are new, gone or decided differently.

    A and B were written by `fxkernels explain --json` or by report.save("a.json"); one of them may be -, for standard input. Calls that
    changed alike share a line. Names of nodes and lines of source files are not compared.

    The exit code is that of diff(1): 0 if nothing is different, 1 if something is, 2 if a file cannot be read.

    \b
    Examples:
      fxkernels diff monday.json friday.json
      fxkernels diff --quiet a.json b.json || echo "kernels changed"
      fxkernels explain mymodel:build --json - | fxkernels diff report.json -
    """
    comparison = before.compare(after)
    if as_json:
        click.echo(json.dumps(as_value(comparison), indent=2, sort_keys=True))
    elif not quiet:
        click.echo(str(comparison))
    click.get_current_context().exit(1 if comparison else 0)


def as_value(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as JSON has it."""
    return {
        "same": comparison.is_empty,
        "versions": [dataclasses.asdict(difference) for difference in comparison.versions],
        "captures": [dataclasses.asdict(difference) for difference in comparison.captures],
        "calls": [
            {
                "call": change.call.key,
                "before": change.before.status if change.before is not None else None,
                "after": change.after.status if change.after is not None else None,
                "lost": change.lost,
                "differences": [dataclasses.asdict(difference) for difference in change.differences()],
            }
            for change in comparison.calls
        ],
    }


@click.command(short_help="Fail when a model has lost kernels since a report was saved.")
@click.argument("saved", metavar="REPORT.json", callback=saved_report)
@target_arguments
@click.option(
    "--for", "device", metavar="DEVICE", help='The machine, e.g. "cuda:sm90".  [default: the report\'s, with the torch of this one]'
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(saved: Report, target: str, device: str | None, as_json: bool, **how: Any) -> None:
    """Explain TARGET now and compare it with a saved report: an upgrade of torch, of a model's code or of a kernel repository should not
    drop a kernel silently.

    REPORT.json was written by `fxkernels explain TARGET --json REPORT.json`, and is in the repository of the project. A call that had a
    kernel in it, or might have had one (`unknown`), must have one now, or might have one, or be covered by one. Calls that have one only
    now are fine, and so is another kernel instead of the old one. Nothing is rewritten, fetched or run.

    The exit code is 0 if no kernel was lost, 1 if one was, 2 if the report or the model cannot be loaded.

    \b
    Examples:
      fxkernels explain mymodel:build --json report.json
      fxkernels check report.json mymodel:build
      fxkernels check report.json hf:llama --config num_hidden_layers=2
      fxkernels check report.json mymodel:build --for "cuda:sm90"
    """
    wanted = [device] if device is not None else _targets(saved)
    _, now = explained(target, targets=wanted, **how)
    comparison = saved.compare(now)  # type: ignore[arg-type] # one target, so one report
    lost = comparison.lost
    if as_json:
        click.echo(json.dumps({"ok": not lost, **as_value(comparison)}, indent=2, sort_keys=True))
        click.get_current_context().exit(1 if lost else 0)
    click.echo(_verdict(saved, comparison))
    if lost:
        click.echo(f"If that is meant, save the report anew: fxkernels explain {target} --json REPORT.json", err=True)
    click.get_current_context().exit(1 if lost else 0)


def _verdict(saved: Report, comparison: Comparison) -> str:
    """Return what was lost, why, and the likely cause; if nothing was lost, what was gained."""
    from ..report.compare import render_comparison

    had, lost = sum(call.status in ("rewritten", "unknown") for call in saved.calls), comparison.lost
    if lost:
        head = f"{len(lost)} of {had} layer calls lost their kernel"
        return render_comparison(replace(comparison, calls=lost), head=head)
    better = f"; {len(comparison.gained)} more have one now, save the report anew to keep them" if comparison.gained else ""
    return f"no kernel was lost: {had} layer {'call has' if had == 1 else 'calls have'} one, or might, as before{better}"


def _targets(saved: Report) -> list[str]:
    """Return the report's targets with this installation's torch; an empty list if the report was made for this machine."""
    from ..target import Target

    here = {each.device: Target.of_machine(each.device) for each in saved.targets}
    if all(_same_machine(each, here[each.device]) for each in saved.targets):
        return []
    if len(saved.targets) > 1:
        names = ", ".join(each.device for each in saved.targets)
        raise click.UsageError(f"the report was made for several devices that are not all here ({names}); name one with --for")
    (only,) = saved.targets
    return [str(replace(only, torch=here[only.device].torch))]


def _same_machine(one: Target, other: Target) -> bool:
    return (one.device, one.capability, one.os, one.cpu) == (other.device, other.capability, other.os, other.cpu)
