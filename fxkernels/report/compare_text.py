"""A comparison of two reports as text: identical changes are folded."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator

from .compare import CallChange, Comparison, Difference, differences_of
from .fold import fold_alike, folded_message
from .outcome import nameless

_NARROWEST = 40


def render_comparison(comparison: Comparison, width: int | None = None, head: str | None = None) -> str:
    """Return the comparison as text; this is what ``print(report.compare(other))`` shows.

    Args:
        comparison: The comparison.
        width: Columns; by default those of the terminal, 80 where there is none.
        head: The first line; by default the `summary`.
    """
    width = max(_NARROWEST, shutil.get_terminal_size((80, 24)).columns if width is None else width)
    lines = [summary(comparison) if head is None else head]
    for title, differences in (("versions", comparison.versions), ("captures", comparison.captures)):
        lines += [title] if differences else []
        lines += [f"  {_difference(difference)}" for difference in differences]
    lines += ["calls"] if comparison.calls else []
    lines += (f"  {line}" for line in _call_lines(comparison))
    return "\n".join(piece for line in lines for piece in _wrapped(line, width))


def _call_lines(comparison: Comparison) -> Iterator[str]:
    """One line for each fold of calls that changed alike, and an indented one for each thing more that is different in it."""
    by_key = {change.call.key: change for change in comparison.calls}
    for fold in fold_alike((change.call for change in comparison.calls), lambda call: _alike(by_key[call.key]), comparison.repeated):
        members = [by_key[call.key] for call in fold.calls]
        mark = "+ " if members[0].before is None else "- " if members[0].after is None else ""
        name = f"{mark}{fold.name}"
        first, *others = differences_of(members, folded_message)
        if first.what:
            yield name
            others = [first, *others]
        else:
            yield f"{name}: {' -> '.join(filter(None, (first.before, first.after)))}"
        yield from (f"    {_difference(difference)}" for difference in others)


def summary(comparison: Comparison) -> str:
    """Return one line: how many calls changed, and what else is different."""
    if not comparison:
        return f"no difference: {_count(comparison.alike, 'call is', 'calls are')} decided alike"
    new = sum(change.before is None for change in comparison.calls)
    gone = sum(change.after is None for change in comparison.calls)
    changed = len(comparison.calls) - new - gone
    total = comparison.alike + len(comparison.calls)
    parts = [f"{changed} of {_count(total, 'call', 'calls')} decided otherwise"]
    parts += [f"{new} new"] if new else []
    parts += [f"{gone} gone"] if gone else []
    parts += ["other versions"] if comparison.versions else []
    parts += ["other captures"] if comparison.captures else []
    return ", ".join(parts)


def _alike(change: CallChange) -> tuple[object, ...]:
    return (change.before is None, change.after is None, differences_of([change], nameless))


def _difference(difference: Difference) -> str:
    if difference.what == "note":
        return f"+ note: {difference.after}" if difference.after else f"- note: {difference.before}"
    return f"{difference.what}: {difference.before or 'none'} -> {difference.after or 'none'}"


def _wrapped(line: str, width: int) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
