"""`fxkernels diff`: what is different between two reports that were saved."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

from .errors import CommandError

if TYPE_CHECKING:
    from ..report.compare import Comparison
    from ..report.report import Report


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
