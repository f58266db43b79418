"""The report as text: a tree over module paths in which identical calls are folded. Colours only repeat what the words say."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .fold import Fold, differing_decisions, fold_calls, folded_message, graphs_that_decided
from .model import GraphDecision, ReportData

if TYPE_CHECKING:
    from rich.console import Console

_INDENT = "  "
_GAP = "  "
_NARROWEST = 40

# The name of a list of modules and the first number in it: `layers.{0..3}`, `layers.3`, or a number that begins the path.
_NUMBERED = re.compile(r"(?:^|[^.]+\.)(?:\{|[0-9]+(?:[.#]|$))")

_STYLES: dict[str, str] = {
    "rewritten": "green",
    "unknown": "cyan",
    "missed": "yellow",
    "excluded": "dim",
    "covered": "dim",
    "not_captured": "red",
}
_HEAD, _HEADING, _PLAIN, _DETAIL = "bold", "bold", "", "dim"

Line = tuple[tuple[str, str], ...]
"""One line: pieces of text, each with the name of its style."""


def render_text(report: ReportData, width: int | None = None) -> str:
    """Return the whole report as plain text; this is what ``print(report)`` shows.

    Nothing is cut off: sentences wrap, and only a module path or a word that is longer than a line sticks out.

    Args:
        report: The report.
        width: Columns; by default those of the terminal, 80 where there is none.
    """
    return "\n".join("".join(text for text, _ in line) for line in _lines(report, columns(width)))


def print_report(report: ReportData, console: Console | None = None) -> None:
    """Print the report, in colour where the terminal has colours.

    Args:
        report: The report.
        console: Where to print; by default standard output.
    """
    from rich.console import Console as RichConsole
    from rich.text import Text

    console = RichConsole(highlight=False) if console is None else console
    for line in _lines(report, columns(console.width)):
        # soft_wrap: the lines are wrapped already, and a long module path should stay in one piece when it is copied.
        console.print(Text.assemble(*line), soft_wrap=True)


def _lines(report: ReportData, width: int) -> Iterator[Line]:
    yield from _paragraph(report.summary, width, style=_HEAD)
    if report.pending:
        yield from _paragraph(
            "Call the model once with real arguments and print the report again; kernelize(..., example_args=...) captures at once.", width
        )
    elif not report.calls:
        yield from _paragraph(
            "Layers are annotated with use_kernel_forward_from_hub, classes of other people with replace_kernel_forward_from_hub.", width
        )
    else:
        yield from _table(_tree(fold_calls(report.calls), depth=0, indent=1), width)
        yield from _paragraph(_counts(report), width)
    for note in report.notes:
        yield from _paragraph(f"note: {note}", width, hanging=_INDENT)


def _counts(report: ReportData) -> str:
    counts = ", ".join(f"{status} {report.counts[status]}" for status in _STYLES if report.counts[status])  # type: ignore[index]
    if not report.graphs:
        return counts
    captured = "captured symbolically" if report.capture == "symbolic" else "captured by Dynamo"
    return f"{counts}; {len(report.graphs)} {'graph' if len(report.graphs) == 1 else 'graphs'} {captured}"


# --- the tree ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    """One entry of the tree: the heading of a branch, or a fold."""

    indent: int
    label: str
    fold: Fold | None = None
    below_cover: bool = False

    @property
    def text(self) -> str:
        count = len(self.fold.calls) if self.fold is not None else 1
        return _INDENT * self.indent + self.label + (f" x{count}" if count > 1 else "")


def _tree(folds: Sequence[Fold], depth: int, indent: int) -> Iterator[_Row]:
    """Rows of folds whose labels share their first `depth` segments. A branch of two or more folds gets a heading."""
    branches: dict[str, list[Fold]] = {}
    for fold in folds:
        way = _way(fold.label)
        branches.setdefault(way[depth] if len(way) > depth else f"{fold.label} itself", []).append(fold)
    for branch in branches.values():
        if len(branch) == 1:
            yield from _rows(branch[0], depth, indent)
            continue
        shared = _shared([_way(fold.label) for fold in branch])
        yield _Row(indent, ".".join(shared[depth:]))
        yield from _tree(branch, len(shared), indent + 1)


def _rows(fold: Fold, depth: int, indent: int) -> Iterator[_Row]:
    """The row of one fold, and below it those of the calls that it covers."""
    yield _Row(indent, _below_heading(fold.label, depth), fold)
    for covered in fold.covered:
        same_heading = _way(covered.label)[:depth] == _way(fold.label)[:depth]
        yield _Row(indent + 1, _below_heading(covered.label, depth if same_heading else 0), covered, below_cover=True)


def _below_heading(label: str, depth: int) -> str:
    name = ".".join(label.split(".")[depth:])
    return f"(the model){name}" if not name or name.startswith("#") else name


def _way(label: str) -> tuple[str, ...]:
    """The modules that can be headings above a label: those before its last name, and before the list in which the first number counts."""
    numbered = _NUMBERED.search(label)
    before = label.split("#")[0] if numbered is None else label[: numbered.start()]
    return tuple(before.split(".")[:-1])


def _shared(ways: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    shared = []
    for segments in zip(*ways, strict=False):
        if len(set(segments)) > 1:
            break
        shared.append(segments[0])
    return tuple(shared)


# --- its lines --------------------------------------------------------------------------------------------------------------------------


def _table(rows: Iterator[_Row], width: int) -> Iterator[Line]:
    """The rows with path, layer name and status in columns. A path that is too long for its column has a line to itself."""
    rows_ = list(rows)
    calls = [(row, row.fold.calls[0]) for row in rows_ if row.fold is not None]
    name_width = max(len(call.layer_name) for _, call in calls)
    status_width = max(len(call.status) for _, call in calls)
    limit = width - name_width - status_width - 2 * len(_GAP)
    path_width = max((len(row.text) for row, _ in calls if len(row.text) <= limit), default=0)
    for row in rows_:
        if row.fold is None:
            yield ((row.text, _HEADING),)
            continue
        call = row.fold.calls[0]
        below = _INDENT * (row.indent + 2)
        first: Line = ((row.text.ljust(path_width), _PLAIN),)
        if len(row.text) > path_width:
            yield first
            first = ((below.ljust(path_width), _PLAIN),)
        status = call.status.ljust(status_width)
        first += ((_GAP + call.layer_name.ljust(name_width) + _GAP, _PLAIN), (status, _STYLES[call.status]))
        details = list(_details(row.fold, row.below_cover))
        used = sum(len(text) for text, _ in first) + len(_GAP)
        if details and "\n" not in details[0] and used + len(details[0]) <= width:
            first += ((_GAP + details.pop(0), _DETAIL),)
        yield *first[:-1], (first[-1][0].rstrip(), first[-1][1])
        for detail in details:
            yield from _paragraph(detail, width, indent=below, hanging=_INDENT, style=_DETAIL)


def _details(fold: Fold, below_cover: bool) -> Iterator[str]:
    """The details of a fold, the main one first."""
    newest = fold.calls[0].decisions[-1]
    messages: list[str] = []
    for number, miss in enumerate(newest.misses):
        message = folded_message([call.decisions[-1].misses[number] for call in fold.calls])
        messages.append(message if miss.code == newest.status else f"{miss.code}: {message}")
    if newest.status in ("rewritten", "unknown"):
        yield _kernel(newest)
        yield from (f"unknown: {gate.name}: {gate.note}" for gate in newest.unknown_gates)
        yield from (f"another kernel came first, but {message}" for message in messages)
    elif not below_cover:
        yield from messages[:1]
        yield from (f"the next kernel: {message}" for message in messages[1:])
    for decision in differing_decisions(fold.calls[0]):
        reason = _kernel(decision) if decision.kernel is not None else ", ".join(miss.code for miss in decision.misses)
        yield f"in graph {graphs_that_decided(fold, decision)}: {decision.status}{f' ({reason})' if reason else ''}"


def _kernel(decision: GraphDecision) -> str:
    """Who takes the call, and what a user has to know of it: that it was not probed, how it enters the graph, what it costs."""
    kernel, evidence = decision.kernel, decision.evidence
    name = f"{kernel} ({kernel.variant})" if kernel is not None and kernel.variant else str(kernel or decision.candidates[-1].name)
    trust = (str(evidence),) if evidence is not None and str(evidence) != "probed" else ()
    return "; ".join((name, *trust, *(decision.lowering.remarks if decision.lowering is not None else ())))


def _paragraph(text: str, width: int, *, indent: str = "", hanging: str = "", style: str = _PLAIN) -> Iterator[Line]:
    yield from (((piece, style),) for piece in wrapped(text, width, first=indent, then=indent + hanging))


def wrapped(text: str, width: int, *, first: str = "", then: str = "") -> Iterator[str]:
    """Yield the text in lines of at most `width` columns; its own line breaks stay, and words stay whole.

    Args:
        text: The text.
        width: Columns.
        first: What the first line begins with.
        then: What every other line begins with.
    """
    start = first
    for line in text.splitlines():
        yield from textwrap.wrap(line, width, initial_indent=start, subsequent_indent=then, break_long_words=False, break_on_hyphens=False)
        start = then


def columns(width: int | None) -> int:
    """Return the columns that a text has: `width`, else those of the terminal, 80 where there is none; never less than 40."""
    return max(_NARROWEST, shutil.get_terminal_size((80, 24)).columns if width is None else width)
