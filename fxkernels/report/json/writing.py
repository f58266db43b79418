"""Writes a report as JSON: the same bytes for equal reports, and no word twice that calls share."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Iterator
from typing import Any

from ...passes.miss import Miss
from ..fold import NAMES
from ..model import CallReport, GraphDecision, Report
from .rows import NOT_WRITTEN, OF_THE_CALL, OF_THE_LAYER, SCHEMA, TABLES, Column, columns


def to_json(report: Report) -> str:
    """Return the report as JSON, in ASCII, with one row of a table on a line. `from_json` reads it; the graphs are not in it.

    Args:
        report: The report. Values in its misses that JSON does not have are written as text; every message stays what it is.
    """
    return _Writer(report).text()


class _Writer:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._tables: dict[str, dict[str, int]] = {name: {} for name in (*TABLES.values(), "layers")}
        self._rows: dict[str, list[Any]] = {name: [] for name in self._tables}
        self._names: frozenset[str] = frozenset()
        # Calls share objects; each is looked at once. The report keeps them alive, so that no other object gets the id of one of them.
        self._known: dict[tuple[int, frozenset[str]], Any] = {}
        self._templates: dict[int, str] = {}
        self._numbers = {call.key: number for number, call in enumerate(report.calls)}

    def text(self) -> str:
        content: dict[str, Any] = {"schema": SCHEMA, "calls": [self._call(call) for call in self._report.calls]}
        content |= {column.name: self._value(getattr(self._report, column.name)) for column in columns(Report, ("calls", *NOT_WRITTEN))}
        content |= self._rows
        return "{\n" + ",\n".join(f'"{key}":{_lines(content[key])}' for key in sorted(content)) + "\n}\n"

    def _call(self, call: CallReport) -> dict[str, Any]:
        layer = self._number("layers", self._record(call, tuple(each for each in columns(CallReport) if each.name in OF_THE_LAYER)))
        row = {"path": call.path, "layer": layer, "decisions": [self._decision(d) for d in call.decisions]}
        return row | ({"index": call.index} if call.index else {})

    def _decision(self, decision: GraphDecision) -> dict[str, Any]:
        names = self._names_in(decision)
        self._names = frozenset(names)
        row: dict[str, Any] = {"form": self._number("forms", self._record(decision, columns(GraphDecision, OF_THE_CALL)))}
        if decision.graph:
            row["graph"] = decision.graph
        if decision.node:
            row["node"] = decision.node
        if decision.reads:
            row["reads"] = [self._numbers.get(key, key) for key in decision.reads]
        if names:
            row["names"] = {name: self._numbers.get(value, value) for name, value in names.items()}
        return row

    def _value(self, value: Any) -> Any:
        if value is None or isinstance(value, str | int):
            return value
        key = (id(value), self._names)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._new_value(value)
        return known

    def _new_value(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return [self._value(item) for item in value]
        cls: type = type(value)
        row = self._miss(value) if isinstance(value, Miss) else self._record(value, columns(cls))
        table = TABLES.get(cls)
        return row if table is None else self._number(table, row)

    def _record(self, value: Any, shown: tuple[Column, ...]) -> dict[str, Any]:
        pairs = ((column, getattr(value, column.name)) for column in shown)
        return {column.name: self._value(found) for column, found in pairs if found != column.default}

    def _miss(self, miss: Miss) -> dict[str, Any]:
        left_out = self._names & self._named(miss)
        data = {name: value if _is_plain(value) else str(value) for name, value in sorted(miss.data.items()) if name not in left_out}
        return {"code": miss.code, "template": self._template(miss)} | ({"data": data} if data else {})

    def _names_in(self, decision: GraphDecision) -> dict[str, str]:
        """The names of nodes and calls in the decision's misses: they differ from call to call, where all else is alike."""
        gates = (*decision.gates, *(gate for candidate in decision.candidates for gate in candidate.gates))
        found: dict[str, list[Any]] = {}
        for miss in (*decision.misses, *(gate.miss for gate in gates if gate.miss is not None)):
            for name in self._named(miss):
                found.setdefault(name, []).append(miss.data[name])
        # Where two misses call different things by one name, each keeps its own.
        return {name: values[0] for name, values in found.items() if type(values[0]) is str and all(v == values[0] for v in values)}

    def _named(self, miss: Miss) -> frozenset[str]:
        """The names that the miss can leave out: reading puts them back where the template has them."""
        names = NAMES & miss.data.keys()
        return frozenset(name for name in names if f"{{{name}}}" in self._template(miss)) if names else names

    def _template(self, miss: Miss) -> str:
        if id(miss) not in self._templates:
            self._templates[id(miss)] = "".join(_plain_pieces(miss))
        return self._templates[id(miss)]

    def _number(self, table: str, row: dict[str, Any]) -> int:
        numbers = self._tables[table]
        number = numbers.setdefault(repr(row), len(numbers))
        if number == len(self._rows[table]):
            self._rows[table].append(row)
        return number


def _lines(value: Any) -> str:
    """JSON without spaces; a list has one item on a line, so that two reports can be compared by line."""
    if not isinstance(value, list) or not value:
        return _dump(value)
    return "[\n" + ",\n".join(map(_dump, value)) + "\n]"


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


# --- misses -----------------------------------------------------------------------------------------------------------------------------


def _plain_pieces(miss: Miss) -> Iterator[str]:
    """The template, in which a field that formats its value in a way that only the value itself knows is written out."""
    for literal, field, spec, conversion in string.Formatter().parse(miss.template):
        yield _escaped(literal)
        if field is None:
            continue
        way = f"!{conversion}" if conversion else ""
        kept = field in miss.data and not spec and (not way or (way == "!r" and _is_plain(miss.data[field])))
        yield f"{{{field}{way}}}" if kept else _escaped(f"{{{field}{way}{':' if spec else ''}{spec}}}".format(**miss.data))


def _is_plain(value: Any) -> bool:
    return value is None or type(value) in (str, int, bool) or (type(value) is float and math.isfinite(value))


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
