"""Reads a report that `fxkernels explain --json` or `Report.save` wrote, and says plainly what is wrong with the file if it is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..report.report import Report


class SavedReportError(click.ClickException):
    """The file that the user named is no report: exit code 2 and one paragraph on stderr."""

    exit_code = 2


def saved_report(context: click.Context, parameter: click.Parameter, value: str) -> Report:
    """Return the report in the file that an argument names; the callback of such an argument. ``-`` is standard input."""
    from ..report.report import Report

    place = "standard input" if value == "-" else value
    try:
        with click.open_file(value, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise SavedReportError(f"{place} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SavedReportError(f"{place}: this is no JSON report: it is not in UTF-8") from error
    try:
        return Report.from_json(text)
    except ValueError as error:
        raise SavedReportError(f"{place}: {error}") from error
