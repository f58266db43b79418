"""A report as a file; the file's suffix says in which form."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .html import render_html
from .json import to_json
from .model import Report

FORMS: dict[str, Callable[[Report], str]] = {".html": render_html, ".json": to_json}
"""What a report can be saved as, by suffix."""


def save_report(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write a report and return where it is.

    Args:
        report: The report.
        path: A file whose suffix is one of `FORMS`; its folder has to exist.

    Raises:
        ValueError: If the suffix is another one.
    """
    file = Path(path)
    form = FORMS.get(file.suffix.lower())
    if form is None:
        raise ValueError(f"cannot save a report as {file.name!r}: the suffix says the form, and it has to be one of {', '.join(FORMS)}")
    file.write_text(form(report), encoding="utf-8", newline="\n")
    return file
