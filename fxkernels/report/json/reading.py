"""Reads a report that `to_json` wrote, trusting nothing: whatever is not as it should be is an error that says where."""

from __future__ import annotations

import reprlib
import string
from collections.abc import Iterable
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from ...hub.strict_json import parse_object
from ...passes.miss import Miss
from ..model import CallReport, GraphDecision, Report
from .rows import NOT_WRITTEN, OF_THE_CALL, OF_THE_LAYER, SCHEMA, TABLES, Column, columns

_CALL = (Column("path", str), Column("index", int, 0), Column("layer", int), Column("decisions", list))
_DECISION = (
    Column("form", int),
    Column("graph", int, 0),
    Column("node", str, ""),
    Column("reads", list, ()),
    Column("names", dict, {}),
)
_WORDS: dict[type, str] = {str: "a string", int: "an integer", bool: "true or false"}


def from_json(text: str) -> Report:
    """Return the report that `to_json` wrote, without graphs.

    It equals the one that was written, but for values in misses that JSON does not have: those are text now.

    Raises:
        ValueError: If the text is no JSON, is of another version, or something in it is missing or not as it should be; with the place,
            e.g. ``calls[3].decisions[0].form``.
    """
    try:
        content = parse_object(text.encode())
    except ValueError as error:
        raise ValueError(f"this is no JSON report: {error}") from None
    schema = content.pop("schema", None)
    if schema != SCHEMA:
        kind = "no report of fxkernels: it lacks the key 'schema'" if schema is None else f"a report of schema {reprlib.repr(schema)}"
        hint = "" if schema is None else "; read it with the version of fxkernels that wrote it, or write it anew"
        raise ValueError(f"this is {kind}, and this version reads {SCHEMA!r}{hint}")
    return _Reader(content).report()


_Names = tuple[tuple[str, str], ...]


class _Reader:
    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content
        self._tables = {cls: _list(content.pop(name, []), name) for cls, name in TABLES.items()}
        # Rows that were read, by class, number and the names that they left out: calls that were decided alike share one value again.
        self._known: dict[tuple[type, int, _Names], Any] = {}
        self._names: _Names = ()

    def report(self) -> Report:
        shown = tuple(column for column in columns(CallReport) if column.name in OF_THE_LAYER)
        rows = _list(self._content.pop("layers", []), "layers")
        layers = [self._fields(shown, row, f"layers[{number}]") for number, row in enumerate(rows)]
        calls = self._calls(layers)
        return Report(calls, **self._fields(columns(Report, ("calls", *NOT_WRITTEN)), self._content, ""))

    # --- calls --------------------------------------------------------------------------------------------------------------------------

    def _calls(self, layers: list[dict[str, Any]]) -> tuple[CallReport, ...]:
        if "calls" not in self._content:
            raise ValueError("this report lacks the key 'calls'")
        rows = [_object(row, f"calls[{number}]") for number, row in enumerate(_list(self._content.pop("calls"), "calls"))]
        keys = [f"{row.get('path')}#{row.get('index', 0)}" for row in rows]
        return tuple(self._call(row, layers, keys, f"calls[{number}]") for number, row in enumerate(rows))

    def _call(self, row: dict[str, Any], layers: list[dict[str, Any]], keys: list[str], where: str) -> CallReport:
        _check_keys(_CALL, row, where)
        decisions = _list(row["decisions"], f"{where}.decisions")
        if not decisions:
            raise ValueError(f"{where}.decisions is empty; a call has at least one decision")
        return CallReport(
            self._value(str, row["path"], f"{where}.path"),
            self._value(int, row.get("index", 0), f"{where}.index"),
            **_chosen(layers, row["layer"], "layers", f"{where}.layer"),
            decisions=tuple(self._decision(decision, keys, f"{where}.decisions[{n}]") for n, decision in enumerate(decisions)),
        )

    def _decision(self, row: Any, keys: list[str], where: str) -> GraphDecision:
        _check_keys(_DECISION, _object(row, where), where)

        def key(value: Any, where: str) -> str:
            return value if isinstance(value, str) else _chosen(keys, value, "calls", where)

        names = _object(row.get("names", {}), f"{where}.names")
        self._names = tuple((name, key(value, f"{where}.names.{name}")) for name, value in names.items())
        form = self._numbered(GraphDecision, row["form"], f"{where}.form")
        self._names = ()
        return GraphDecision(
            self._value(int, row.get("graph", 0), f"{where}.graph"),
            **form,
            node=self._value(str, row.get("node", ""), f"{where}.node"),
            reads=tuple(key(value, f"{where}.reads[{n}]") for n, value in enumerate(_list(row.get("reads", []), f"{where}.reads"))),
        )

    # --- values -------------------------------------------------------------------------------------------------------------------------

    def _numbered(self, cls: type, number: Any, where: str) -> Any:
        """The row of a table; of a decision its fields, for the call has the others."""
        row = _chosen(self._tables[cls], number, TABLES[cls], where)
        key = (cls, number, self._names)
        if key not in self._known:
            place = f"{TABLES[cls]}[{number}]"
            fields = self._fields(columns(cls, OF_THE_CALL if cls is GraphDecision else ()), row, place)
            if cls is Miss:
                names = {name: value for name, value in self._names if f"{{{name}}}" in fields["template"]}
                fields["data"] = names | fields["data"]  # what the row itself says comes first; a new dict, for the default is shared
            self._known[key] = fields if cls is GraphDecision else _made(cls, fields, place)
        return self._known[key]

    def _fields(self, shown: tuple[Column, ...], row: Any, where: str) -> dict[str, Any]:
        """The fields that a JSON object has, and the defaults of those that it leaves out."""
        _check_keys(shown, _object(row, where), where)
        start = f"{where}." if where else ""
        return {
            column.name: self._value(column.kind, row[column.name], f"{start}{column.name}") if column.name in row else column.default
            for column in shown
        }

    def _value(self, kind: Any, value: Any, where: str) -> Any:
        if kind in self._tables:
            return self._numbered(kind, value, where)
        if kind in _WORDS:
            return value if type(value) is kind else _refuse(value, _WORDS[kind], where)
        if is_dataclass(kind) and isinstance(kind, type):
            return _made(kind, self._fields(columns(kind), value, where), where)
        origin, parts = get_origin(kind), get_args(kind)
        if origin is UnionType:  # X | None
            return None if value is None else self._value(next(part for part in parts if part is not NoneType), value, where)
        if origin is Literal:
            return value if value in parts else _refuse(value, f"one of {', '.join(parts)}", where)
        if origin is dict:
            return _data(value, where)
        items = _list(value, where)
        if parts[-1] is not Ellipsis:
            return tuple(self._value(part, item, f"{where}[{n}]") for n, (part, item) in enumerate(_pairs(parts, items, where)))
        return tuple(self._value(parts[0], item, f"{where}[{number}]") for number, item in enumerate(items))


def _made(cls: type, fields: dict[str, Any], where: str) -> Any:
    try:
        made = cls(**fields)
    except ValueError as error:  # of a value that refuses what contradicts itself
        raise ValueError(f"{where} cannot be: {error}") from None
    if isinstance(made, Miss):
        _check_template(made, where)
    return made


def _check_template(miss: Miss, where: str) -> None:
    """Templates are formatted when somebody reads them. One from outside names its values and does nothing else with them."""
    try:
        pieces = list(string.Formatter().parse(miss.template))
    except ValueError as error:
        raise ValueError(f"{where}.template cannot be read: {error}") from None
    for _, field, spec, conversion in pieces:
        if field is None:
            continue
        if field not in miss.data:
            raise ValueError(f"{where}.data lacks the key {field!r}, which the template names")
        if spec or conversion not in (None, "r"):
            raise ValueError(f"{where}.template formats {field!r} in a way that stored templates do not")


def _data(value: Any, where: str) -> dict[str, Any]:
    for name, item in _object(value, where).items():
        if isinstance(item, dict | list):
            _refuse(item, "a string, a number, true, false or null", f"{where}.{name}")
    return dict(value)


def _check_keys(shown: Iterable[Column], row: dict[str, Any], where: str) -> None:
    names = {column.name: column.required for column in shown}
    place = where or "this report"
    for name, required in names.items():
        if required and name not in row:
            raise ValueError(f"{place} lacks the key {name!r}")
    for name in row:
        if name not in names:
            raise ValueError(f"{place} has the key {name!r}, which {SCHEMA!r} does not know; was it written by a newer fxkernels?")


def _chosen(rows: list[Any], number: Any, table: str, where: str) -> Any:
    if type(number) is not int or not 0 <= number < len(rows):
        _refuse(number, f"the number of one of the {len(rows)} {table}, from 0", where)
    return rows[number]


def _pairs(parts: tuple[Any, ...], items: list[Any], where: str) -> Iterable[tuple[Any, Any]]:
    if len(parts) != len(items):
        _refuse(items, f"a list of {len(parts)}", where)
    return zip(parts, items, strict=True)


def _list(value: Any, where: str) -> list[Any]:
    return value if isinstance(value, list) else _refuse(value, "a list", where)


def _object(value: Any, where: str) -> dict[str, Any]:
    return value if isinstance(value, dict) else _refuse(value, "an object", where or "this report")


def _refuse(value: Any, expected: str, where: str) -> Any:
    raise ValueError(f"{where} is {reprlib.repr(value)}; it must be {expected}")
