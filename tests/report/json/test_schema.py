from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
from hypothesis import given, settings
from report.report_strategies import reports
from report.reports import llama_like, small_report

import fxkernels
from fxkernels.kernels.lowering.lowering import LoweringName
from fxkernels.passes.gate import CALL_GATES, CANDIDATE_GATES, Outcome
from fxkernels.passes.miss import CODES
from fxkernels.passes.plan import Status
from fxkernels.report.json import SCHEMA, to_json
from fxkernels.report.json.rows import NOT_WRITTEN, OF_THE_CALL, OF_THE_LAYER, TABLES, columns
from fxkernels.report.model import CallReport, Evidence, GraphDecision
from fxkernels.report.report import Report
from fxkernels.target import Target

CONTENT: dict[str, Any] = json.loads((Path(fxkernels.__file__).parent / "report" / "schema.json").read_text())
DEFINITIONS = CONTENT["$defs"]
VALIDATOR = jsonschema.Draft202012Validator(CONTENT)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(CONTENT)
    assert CONTENT["properties"]["schema"] == {"const": SCHEMA}


@pytest.mark.parametrize(
    "report", [small_report(), llama_like(3, [1]), Report(), Report(pending=True)], ids=["small", "llama", "empty", "pending"]
)
def test_reports_are_valid(report: Report) -> None:
    VALIDATOR.validate(json.loads(to_json(report)))


@given(reports())
@settings(max_examples=20, deadline=None)
def test_any_report_is_valid(report: Report) -> None:
    VALIDATOR.validate(json.loads(to_json(report)))


DESCRIBED = {
    **{name.removesuffix("es") if name == "misses" else name.removesuffix("s"): cls for cls, name in TABLES.items() if name != "forms"},
    "evidence": Evidence,
    "target": Target,
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_the_schema_has_the_keys_that_are_written(name: str) -> None:
    shown = columns(DESCRIBED[name])
    assert set(DEFINITIONS[name]["properties"]) == {column.name for column in shown}
    assert set(DEFINITIONS[name]["required"]) == {column.name for column in shown if column.required}


def test_the_schema_has_the_keys_of_reports_calls_and_forms() -> None:
    tables = {*TABLES.values(), "layers"}
    assert set(CONTENT["properties"]) == {"schema", "calls", *tables, *(column.name for column in columns(Report, ("calls", *NOT_WRITTEN)))}
    assert set(DEFINITIONS["form"]["properties"]) == {column.name for column in columns(GraphDecision, OF_THE_CALL)}
    assert set(DEFINITIONS["decision"]["properties"]) == {"form", "names", *OF_THE_CALL}
    assert set(DEFINITIONS["layer"]["properties"]) == set(OF_THE_LAYER)
    assert set(DEFINITIONS["call"]["properties"]) == {"layer", *({column.name for column in columns(CallReport)} - set(OF_THE_LAYER))}


def test_the_schema_has_the_words_of_the_library() -> None:
    assert DEFINITIONS["miss"]["properties"]["code"]["enum"] == list(CODES)
    assert DEFINITIONS["gate"]["properties"]["name"]["enum"] == [*CALL_GATES, *CANDIDATE_GATES]
    assert DEFINITIONS["gate"]["properties"]["outcome"]["enum"] == list(get_args(Outcome))
    assert DEFINITIONS["form"]["properties"]["status"]["enum"] == list(get_args(Status))
    assert DEFINITIONS["lowering"]["properties"]["name"]["enum"] == list(get_args(LoweringName))


@pytest.mark.parametrize("key", ["path", "decisions", "layer"])
def test_a_call_that_lacks_a_key_is_not_valid(key: str) -> None:
    content = json.loads(to_json(small_report()))
    del content["calls"][0][key]
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(content)
