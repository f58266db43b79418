"""The report as one HTML file: nothing is fetched, nothing is built, and without scripts all of it can be read."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup, escape

from ..json import to_json
from ..model import CallReport, ReportData
from ..picture import MARKS, anchor_of, link_to, render_picture
from .view import MOST_LISTED, Entry, entries_of, page_tree

_SCRIPTS = ("theme.js", "descriptions.js", "links.js", "filters.js", "values.js")

MANY = 200
"""From this many folds on, a browser lays out only those that are seen: it clips what sticks out of one, which costs a little beauty."""


def render_html(report: ReportData) -> str:
    """Return the whole report as an HTML page."""
    tree = page_tree(report)
    entries = list(entries_of(tree))
    script = "\n".join(_source(name) for name in _SCRIPTS)
    return _environment().get_template("page.html.j2").render(
        report=report,
        tree=tree,
        many=len(entries) > MANY,
        ran=dict(report.ran or {}),
        marks=MARKS,
        statuses=_statuses(report),
        options=_options(entries),
        picture=Markup(render_picture(report)),
        style=Markup(_source("page.css")),
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=_packed(to_json(report)),
    )  # fmt: skip


def render_fragment(report: ReportData) -> str:
    """Return a summary for a notebook's cell: no scripts, so that it also shows where a notebook is only displayed."""
    return _environment().get_template("fragment.html.j2").render(
        report=report, tree=page_tree(report), marks=MARKS, statuses=_statuses(report)
    )  # fmt: skip


def _statuses(report: ReportData) -> dict[str, int]:
    """How many calls have each status, in the order in which statuses are always named."""
    return {status: report.counts[status] for status in MARKS if report.counts[status]}  # type: ignore[index]


def _options(entries: list[Entry]) -> dict[str, dict[str, int]]:
    """What can be chosen in each filter, with the number of calls."""
    options: dict[str, Counter[str]] = {"layer": Counter(), "kernel": Counter(), "reason": Counter()}
    for entry in entries:
        options["layer"][entry.layer_name] += len(entry.calls)
        if entry.kernel:
            options["kernel"][entry.kernel] += len(entry.calls)
        if entry.why and entry.status != "rewritten":
            options["reason"][entry.why[0][0]] += len(entry.calls)
    return {name: dict(sorted(counts.items())) for name, counts in options.items()}


def _packed(json: str) -> str:
    """JSON as base64 of gzip: a tenth of its size or less, the same bytes for equal reports, and no text that HTML could misread."""
    return base64.b64encode(gzip.compress(json.encode(), mtime=0)).decode()


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["words"] = lambda status: status.replace("_", " ")
    environment.globals |= {"anchor_of": anchor_of, "link_to": link_to, "file_name": _file_name}
    environment.globals |= {
        "most_listed": MOST_LISTED,
        "line_of": _line_of,
        "breakable": _breakable,
        "ran_together": _ran_together,
        "listed": _listed,
    }
    return environment


def _file_name(location: str) -> str:
    """``model.py:12`` of a location with the whole path, which is in the JSON."""
    return location.replace("\\", "/").rsplit("/", 1)[-1]


def _line_of(location: str, file: str) -> str:
    """The number of the line, with its file where that is another one."""
    return _file_name(location).removeprefix(f"{file}:")


def _breakable(code: str) -> Markup | str:
    """Code that, where it is long, may be broken behind an opening bracket or a comma."""
    return escape(code).replace("(", Markup("(<wbr>")) if len(code) > 40 else code


def _listed(calls: Iterable[CallReport]) -> Markup:
    """Path, index and node of each call as JSON, for scripts."""
    return htmlsafe_json_dumps([[call.path, call.index, call.decisions[-1].node] for call in calls], separators=(",", ":"))


def _ran_together(ran: Mapping[str, Counter[str]], calls: Iterable[CallReport]) -> Counter[str]:
    """How often the calls ran what, in sum."""
    return sum((ran[call.key] for call in calls if call.key in ran), Counter[str]())


@functools.cache
def _source(name: str) -> str:
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0]
