"""The report as JSON, for CI, other tools and the page that shows it: one object, nested as the report is.

A key that is left out has the default of its field. `schema.json` beside this file describes every key, docs/report-json.md explains them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import reprlib
import string
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from ..decide.gates import CODES, GATES
from ..hub.strict_json import parse_object
from ..kernels.layer import KernelIdentity
from ..passes.gate import CandidateResult, GateResult
from ..passes.miss import Miss
from .model import CallReport, ReportData

R = TypeVar("R", bound=ReportData)

SCHEMA = "fxkernels.report/2"
"""What the key ``schema`` holds. The number grows when a reader of the last one would misread the text."""

NOT_WRITTEN = frozenset({"graphs", "ran"})
"""The fields of a report that exist in its process only."""

_REQUIRED: Any = object()
_WORDS: dict[Any, str] = {str: "a string", int: "an integer", bool: "true or false"}


class Key(NamedTuple):
    """A key of a JSON object: the type of its field, and the value of the field where the key is left out."""

    kind: Any
    default: Any = _REQUIRED

    @property
    def required(self) -> bool:
        """Whether the key must be there."""
        return self.default is _REQUIRED


@functools.cache
def keys_of(cls: type) -> dict[str, Key]:
    """Return the keys of a dataclass by their names. A field without a default that may be None is None where its key is left out."""
    kinds = get_type_hints(cls)
    if cls is CandidateResult:
        kinds["kernel"] = KernelIdentity | None  # any object for the passes, whose value it is
    fields = [field for field in dataclasses.fields(cls) if field.name not in NOT_WRITTEN]
    return {field.name: Key(kinds[field.name], _default(field, kinds[field.name])) for field in fields}


def _default(field: dataclasses.Field[Any], kind: Any) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if NoneType in get_args(kind) else _REQUIRED


# --- writing ----------------------------------------------------------------------------------------------------------------------------


def to_json(report: ReportData) -> str:
    """Return the report as JSON, in ASCII, with one call on a line. `from_json` reads it; the graphs are not in it.

    Equal reports have equal bytes.

    Args:
        report: The report. Values in its misses that JSON does not have are written as text; every message stays what it is.
    """
    known: dict[int, Any] = {}
    content = {"schema": SCHEMA} | {name: _written(getattr(report, name), known) for name in keys_of(ReportData)}
    return "{\n" + ",\n".join(f'"{name}":{_lines(content[name])}' for name in sorted(content)) + "\n}\n"


def _written(value: Any, known: dict[int, Any]) -> Any:
    """The value as what JSON has. Calls share values, which are looked at once; the report keeps them, and so their ids, alive."""
    if value is None or isinstance(value, str | int):
        return value
    found = known.get(id(value))
    if found is None:
        found = known[id(value)] = _newly_written(value, known)
    return found


def _newly_written(value: Any, known: dict[int, Any]) -> Any:
    if isinstance(value, tuple):
        return [_written(item, known) for item in value]
    if isinstance(value, Miss):
        data = {name: item if _is_plain(item) else str(item) for name, item in value.data.items()}
        return {"code": value.code, "template": "".join(_plain_pieces(value))} | ({"data": data} if data else {})
    fields = ((name, key, getattr(value, name)) for name, key in keys_of(value.__class__).items())
    return {name: _written(item, known) for name, key, item in fields if item != key.default}


def _plain_pieces(miss: Miss) -> Iterator[str]:
    """The template, in which a field is written out if only its value knows how it is formatted."""
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


def _lines(value: Any) -> str:
    """JSON without spaces; a list has one item on a line, so that two reports can be compared by line."""
    if not isinstance(value, list) or not value:
        return _dump(value)
    return "[\n" + ",\n".join(map(_dump, value)) + "\n]"


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


# --- reading ----------------------------------------------------------------------------------------------------------------------------

_Known = dict[tuple[Any, str], tuple[Any, ...]]
"""Lists that were read, by type and text: calls that were decided alike share one value again."""


def from_json(text: str, kind: type[R]) -> R:
    """Return the report that `to_json` wrote, without graphs.

    It equals the one that was written, but for values in misses that JSON does not have: those are text now.

    Args:
        text: The JSON. It is not trusted.
        kind: The class of the report.

    Raises:
        ValueError: If the text is no JSON, is of another version, or something in it is missing or not as it should be; with the place,
            e.g. ``calls[3].decisions[0].status``.
    """
    try:
        content = parse_object(text.encode())
    except ValueError as error:
        raise ValueError(f"this is no JSON report: {error}") from None
    schema = content.pop("schema", None)
    if schema is None:
        raise ValueError(f"this is no report of fxkernels: it lacks the key 'schema', and this version reads {SCHEMA!r}")
    if schema != SCHEMA:
        raise ValueError(
            f"this is a report of schema {reprlib.repr(schema)}, and this version reads {SCHEMA!r}; write it anew "
            "(`fxkernels explain TARGET --json FILE`), or read it with the version of fxkernels that wrote it"
        )
    if "calls" not in content:  # the field has a default, a written report always has the key
        raise ValueError("this report lacks the key 'calls'")
    return kind(**_fields(ReportData, content, "", {}))


def _fields(cls: type, value: Any, where: str, known: _Known) -> dict[str, Any]:
    """The fields of a value, from its JSON object."""
    content, keys, place = _object(value, where), keys_of(cls), where or "this report"
    for name, key in keys.items():
        if key.required and name not in content:
            raise ValueError(f"{place} lacks the key {name!r}")
    for name in content:
        if name not in keys:
            raise ValueError(f"{place} has the key {name!r}, which {SCHEMA!r} does not know; was it written by a newer fxkernels?")
    start = f"{where}." if where else ""
    return {name: _read(key.kind, content[name], start + name, known) if name in content else key.default for name, key in keys.items()}


def _read(kind: Any, value: Any, where: str, known: _Known) -> Any:
    if kind in _WORDS:
        return value if type(value) is kind else _refuse(value, _WORDS[kind], where)
    if is_dataclass(kind) and isinstance(kind, type):
        return _made(kind, _fields(kind, value, where, known), where)
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:  # X | None
        return None if value is None else _read(next(part for part in parts if part is not NoneType), value, where, known)
    if origin is Literal:
        return value if value in parts else _refuse(value, f"one of {', '.join(parts)}", where)
    if origin is dict:
        return _data(value, where)
    key = (kind, repr(value))
    if key not in known:
        known[key] = _read_list(parts, value, where, known)
    return known[key]


def _read_list(parts: tuple[Any, ...], value: Any, where: str, known: _Known) -> tuple[Any, ...]:
    items = value if isinstance(value, list) else _refuse(value, "a list", where)
    kinds = [parts[0]] * len(items) if parts[-1] is Ellipsis else parts
    if len(kinds) != len(items):
        _refuse(items, f"a list of {len(kinds)}", where)
    return tuple(_read(part, item, f"{where}[{number}]", known) for number, (part, item) in enumerate(zip(kinds, items, strict=True)))


def _made(cls: type, fields: dict[str, Any], where: str) -> Any:
    try:
        made = cls(**fields)
    except ValueError as error:  # of a value that refuses what contradicts itself
        raise ValueError(f"{where} cannot be: {error}") from None
    if isinstance(made, Miss):
        _one_of("the codes of misses", CODES, made.code, f"{where}.code")
        _check_template(made, where)
    if isinstance(made, GateResult):
        _one_of("the gates", [gate.name for gate in GATES], made.name, f"{where}.name")
    if isinstance(made, CallReport) and not made.decisions:
        raise ValueError(f"{where}.decisions is empty; a call has at least one decision")
    return made


def _one_of(what: str, known: Sequence[str], value: str, where: str) -> None:
    if value not in known:
        _refuse(value, f"one of {what}, which decide/gates.py lists", where)


def _check_template(miss: Miss, where: str) -> None:
    """Templates are formatted when the message is read. One from outside names its values and does nothing else with them."""
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


def _object(value: Any, where: str) -> dict[str, Any]:
    return value if isinstance(value, dict) else _refuse(value, "an object", where or "this report")


def _refuse(value: Any, expected: str, where: str) -> Any:
    raise ValueError(f"{where} is {reprlib.repr(value)}; it must be {expected}")
