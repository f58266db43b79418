"""The report as users hold it: the data, and a method for each way to show it, save it or ask it something."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .compare import Comparison, compare
from .diff import render_diff
from .html import render_fragment, render_html
from .json import from_json, to_json
from .model import ReportData
from .terminal import render_text
from .why import Why, why

FORMATS: dict[str, Callable[[ReportData], str]] = {".html": render_html, ".json": to_json}
"""What a report can be saved as, by suffix."""


@dataclass(frozen=True, slots=True)
class Report(ReportData):
    """What happened to every layer call of a model. See `ReportData` for what it holds; ``print(report)`` shows all of it."""

    def why(self, name: str) -> Why:
        """Return why a call runs the kernel that it runs, or none; print it.

        Args:
            name: A module path, a path with call index (``model.norm#1``), or a folded label as the report shows it.

        Raises:
            ValueError: If no call has this name; the message has the nearest names, or those below it.

        Example:
            >>> print(report.why("model.layers.3.norm"))
        """
        return why(self, name)

    def diff(self) -> str:
        """Return a unified diff whose hunks are layer calls: before, the operations of the layer; after, the call of the kernel.

        Identical calls share a hunk. See `compare` for what changed between two reports.
        """
        return render_diff(self)

    def compare(self, other: ReportData) -> Comparison:
        """Return what is different in `other`: versions, targets, captures, and the calls that are new, gone or decided differently.

        Example:
            >>> print(Report.from_json(Path("yesterday.json").read_text()).compare(explain(model, x)))
        """
        return compare(self, other)

    def to_json(self) -> str:
        """Return the report as JSON; `from_json` reads it. The graphs are not in it. See docs/report-json.md."""
        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Return the report that `to_json` wrote.

        Raises:
            ValueError: If the text is no such report, with the place that is wrong.
        """
        return from_json(text, cls)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report to a file and return its path: ``.html`` is a page for a browser, ``.json`` is for programs.

        Raises:
            ValueError: If the file has another suffix.

        Example:
            >>> fxkernels.explain(model, x).save("report.html")
        """
        file = Path(path)
        written = FORMATS.get(file.suffix.lower())
        if written is None:
            raise ValueError(
                f"cannot save a report as {file.name!r}: the suffix says the format, and it has to be one of {', '.join(FORMATS)}"
            )
        file.write_text(written(self), encoding="utf-8", newline="\n")
        return file

    def __str__(self) -> str:
        return render_text(self)

    def _repr_html_(self) -> str:
        return render_fragment(self)
