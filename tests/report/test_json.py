"""The JSON of a report: what is written, what comes back, what is refused, and that schema and documentation say the same."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from kernel_repositories import repository
from report.report_strategies import reports
from report.reports import NORMS, NOT_DENSE, large_report, llama_like, missed_in_training, small_report
from torch import fx, nn

import fxkernels
from fxkernels.decide.gates import CODES, GATES
from fxkernels.demo_model import decoder
from fxkernels.kernels.describe import Operation
from fxkernels.kernels.layer import KernelIdentity
from fxkernels.kernels.lowering.lowering import Lowering, LoweringName
from fxkernels.kernels.lowering.repairs import Repairs
from fxkernels.passes.gate import CandidateResult, GateResult, Outcome
from fxkernels.passes.miss import Miss
from fxkernels.passes.plan import Status
from fxkernels.report.json import SCHEMA, keys_of, to_json
from fxkernels.report.model import CallReport, Evidence, GraphDecision, ReportData
from fxkernels.report.report import Report
from fxkernels.report.terminal import render_text
from fxkernels.target import Target


def report_of(*misses: Miss) -> Report:
    return Report((CallReport("norm", 0, "RMSNorm", "RMSNorm", None, (GraphDecision(0, "missed", None, misses),)),))


def there_and_back(miss: Miss) -> Miss:
    return Report.from_json(to_json(report_of(miss))).calls[0].decisions[0].misses[0]


def test_a_report_comes_back_equal() -> None:
    report = llama_like(32, missed_in=())
    assert Report.from_json(to_json(report)) == report


@given(reports())
@settings(max_examples=60)
def test_any_report_comes_back_equal_and_as_the_same_text(report: Report) -> None:
    text = to_json(report)
    assert Report.from_json(text) == report
    assert to_json(Report.from_json(text)) == text


def test_a_report_that_came_back_reads_like_the_one_that_was_written() -> None:
    report = small_report()
    assert render_text(Report.from_json(to_json(report)), 80) == render_text(report, 80)


def test_the_report_of_a_capture_comes_back_with_every_message() -> None:
    from fxkernels import kernelize

    model, args = decoder(length=16, layers=2)
    kernelized = kernelize(model, mapping={"RMSNorm": {"cpu": repository("norms", "RMSNorm")}})
    kernelized(*args)
    report = kernelized.report
    back = Report.from_json(to_json(report))
    assert render_text(back, 80) == render_text(replace(report, graphs=()), 80)
    assert to_json(back) == to_json(report)


def test_graphs_are_left_out() -> None:
    graph = fx.symbolic_trace(nn.Identity())
    assert Report.from_json(to_json(Report(graphs=(graph,)))) == Report()


def test_equal_reports_have_the_same_bytes_whatever_objects_they_share() -> None:
    assert to_json(llama_like(2)) == to_json(Report.from_json(to_json(llama_like(2)))) == to_json(llama_like(2))


def test_the_text_is_ascii_with_one_call_on_a_line_and_sorted_keys() -> None:
    report = replace(small_report(), notes=("größer",))
    text = to_json(report)
    assert text.isascii()
    content = json.loads(text)
    assert list(content) == sorted(content)
    assert list(content["calls"][0]) == sorted(content["calls"][0])
    lines = text.splitlines()
    assert sum(line.startswith('{"decisions":') for line in lines) == len(report.calls)


def test_a_thousand_calls_take_a_kilobyte_each_and_much_less_when_compressed() -> None:
    text = to_json(large_report(1_000))
    assert len(text) < 1_250_000
    assert len(gzip.compress(text.encode())) < 40_000


def test_what_is_said_of_a_call_is_nested_in_it() -> None:
    call = json.loads(to_json(small_report()))["calls"][0]
    assert (call["path"], call["layer_name"], call["location"]) == ("model.layers.0.input_layernorm", "RMSNorm", "model.py:28")
    (decision,) = call["decisions"]
    assert (decision["status"], decision["kernel"]["repository"], decision["node"]) == ("rewritten", "acme/norms", "mul_0")
    assert decision["misses"][0] == {"code": "layout", "template": NOT_DENSE.template, "data": {"name": "x", "stride": 2}}
    assert decision["candidates"][0]["gates"][-1] == {"name": "inputs", "outcome": "failed", "miss": decision["misses"][0]}


# --- misses -----------------------------------------------------------------------------------------------------------------------------


def test_values_that_json_does_not_have_are_text_then() -> None:
    (miss,) = missed_in_training(0).misses
    assert miss.data == {"kernel": NORMS}
    assert there_and_back(miss) == replace(miss, data={"kernel": "acme/norms@9a31f0c:RMSNorm"})


@pytest.mark.parametrize(
    ("template", "data"),
    [
        ("{error:.2e} is more than {bound!r}", {"error": 0.5, "bound": 0.25}),
        ("{stride[0]} of {stride}", {"stride": (2, 1)}),
        ("{kernel.layer} by {kernel!r}", {"kernel": KernelIdentity("a", None, "{b}", None)}),
        ("{name!r:>12}|{name!s}|{name!a}", {"name": "ä{}"}),
        ("{node:>5} and {node}", {"node": "mul"}),
        ("{{node}} and {node!r}", {"node": "mul"}),
        ("{size}", {"size": torch.Size([2, 3])}),
        ("{error} {bound:f}", {"error": float("nan"), "bound": float("inf")}),
        ("{yes} {one} {none}", {"yes": True, "one": 1, "none": None}),
    ],
)
def test_the_message_stays_however_the_template_formats_it(template: str, data: dict[str, Any]) -> None:
    miss = Miss("crash", template, data)
    assert there_and_back(miss).message == miss.message


# --- reading ----------------------------------------------------------------------------------------------------------------------------


Edit = Callable[[dict[str, Any]], object]


def edited(edit: Edit) -> str:
    content = json.loads(to_json(small_report()))
    edit(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "this is no JSON report: Expecting value: line 1 column 1 (char 0)"),
        ("not json", "this is no JSON report: Expecting value: line 1 column 1 (char 0)"),
        ("[]", "this is no JSON report: it holds a JSON list, it must hold an object"),
        ('{"schema": 1, "schema": 1}', "this is no JSON report: the key 'schema' is in one object twice"),
        ("[" * 100_000, "this is no JSON report: it is nested too deeply"),
        ("{}", "this is no report of fxkernels: it lacks the key 'schema', and this version reads 'fxkernels.report/2'"),
        (
            '{"schema": "fxkernels.report/1", "calls": [], "layers": [], "forms": []}',
            "this is a report of schema 'fxkernels.report/1', and this version reads 'fxkernels.report/2'; write it anew "
            "(`fxkernels explain TARGET --json FILE`), or read it with the version of fxkernels that wrote it",
        ),
    ],
)
def test_what_is_no_report_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 # the whole message is compared
        Report.from_json(text)
    assert str(error.value) == message


def set_(*path: Any, to: Any) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = to

    return edit


NORM = ("calls", 13, "decisions", 0)
"""A norm that was missed, with two candidates and a miss in each."""


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("calls"), "this report lacks the key 'calls'"),
        (lambda c: c["calls"][3].pop("path"), "calls[3] lacks the key 'path'"),
        (lambda c: c["calls"][0]["decisions"][0].pop("status"), "calls[0].decisions[0] lacks the key 'status'"),
        (lambda c: c["calls"][0]["decisions"][0]["kernel"].pop("layer"), "calls[0].decisions[0].kernel lacks the key 'layer'"),
        (lambda c: c["targets"][0].pop("os"), "targets[0] lacks the key 'os'"),
        (set_("calls", to={}), "calls is {}; it must be a list"),
        (set_("calls", 1, to=7), "calls[1] is 7; it must be an object"),
        (set_("calls", 1, "path", to=7), "calls[1].path is 7; it must be a string"),
        (set_("calls", 1, "index", to="0"), "calls[1].index is '0'; it must be an integer"),
        (set_("calls", 1, "index", to=True), "calls[1].index is True; it must be an integer"),
        (set_("calls", 1, "decisions", to=[]), "calls[1].decisions is empty; a call has at least one decision"),
        (set_("calls", 2, "decisions", 0, "reads", to=[-1]), "calls[2].decisions[0].reads[0] is -1; it must be a string"),
        (
            set_("calls", 1, "note", to="x"),
            "calls[1] has the key 'note', which 'fxkernels.report/2' does not know; was it written by a newer fxkernels?",
        ),
        (set_(*NORM, "training", to=1), "calls[13].decisions[0].training is 1; it must be true or false"),
        (
            set_(*NORM, "status", to="fine"),
            "calls[13].decisions[0].status is 'fine'; it must be one of rewritten, missed, excluded, covered, not_captured, unknown",
        ),
        (
            set_(*NORM, "misses", 0, "code", to="mood"),
            "calls[13].decisions[0].misses[0].code is 'mood'; it must be one of the codes of misses, which decide/gates.py lists",
        ),
        (
            set_(*NORM, "misses", 0, "template", to="{a"),
            "calls[13].decisions[0].misses[0].template cannot be read: expected '}' before end of string",
        ),
        (
            set_(*NORM, "misses", 0, "template", to="{a}"),
            "calls[13].decisions[0].misses[0].data lacks the key 'a', which the template names",
        ),
        (
            set_(*NORM, "misses", 0, "template", to="{name.__class__}"),
            "calls[13].decisions[0].misses[0].data lacks the key 'name.__class__', which the template names",
        ),
        (
            set_(*NORM, "misses", 0, "template", to="{name:>9999999999}"),
            "calls[13].decisions[0].misses[0].template formats 'name' in a way that stored templates do not",
        ),
        (
            set_(*NORM, "misses", 0, "data", "name", to=[]),
            "calls[13].decisions[0].misses[0].data.name is []; it must be a string, a number, true, false or null",
        ),
        (
            set_(*NORM, "gates", 0, "outcome", to="failed"),
            "calls[13].decisions[0].gates[0] cannot be: gate filter has outcome failed and miss=None, which contradict each other",
        ),
        (set_("versions", 0, to=["torch"]), "versions[0] is ['torch']; it must be a list of 2"),
        (
            set_("mood", to=1),
            "this report has the key 'mood', which 'fxkernels.report/2' does not know; was it written by a newer fxkernels?",
        ),
    ],
)
def test_what_is_not_as_it_should_be_is_refused_with_its_place(edit: Edit, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 # the whole message is compared
        Report.from_json(edited(edit))
    assert str(error.value) == message


def test_calls_that_were_decided_alike_share_one_value_again() -> None:
    report = Report.from_json(to_json(small_report()))
    first, second = (report.calls[n].decisions[0] for n in range(2))
    assert first.before is second.before
    assert first.candidates is second.candidates


# --- schema and documentation -----------------------------------------------------------------------------------------------------------


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
@settings(max_examples=20)
def test_any_report_is_valid(report: Report) -> None:
    VALIDATOR.validate(json.loads(to_json(report)))


DESCRIBED = {
    "call": CallReport,
    "decision": GraphDecision,
    "kernel": KernelIdentity,
    "lowering": Lowering,
    "repairs": Repairs,
    "miss": Miss,
    "gate": GateResult,
    "candidate": CandidateResult,
    "operation": Operation,
    "evidence": Evidence,
    "target": Target,
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_the_schema_has_the_keys_that_are_written(name: str) -> None:
    keys = keys_of(DESCRIBED[name])
    assert set(DEFINITIONS[name]["properties"]) == set(keys)
    assert set(DEFINITIONS[name]["required"]) == {name for name, key in keys.items() if key.required}


def test_the_schema_has_the_keys_of_reports_and_describes_nothing_else() -> None:
    assert set(CONTENT["properties"]) == {"schema", *keys_of(ReportData)}
    assert set(DEFINITIONS) == set(DESCRIBED)


def test_the_schema_has_the_words_of_the_library() -> None:
    assert DEFINITIONS["miss"]["properties"]["code"]["enum"] == list(CODES)
    assert DEFINITIONS["gate"]["properties"]["name"]["enum"] == [gate.name for gate in GATES]
    assert DEFINITIONS["gate"]["properties"]["outcome"]["enum"] == list(get_args(Outcome))
    assert DEFINITIONS["decision"]["properties"]["status"]["enum"] == list(get_args(Status))
    assert DEFINITIONS["lowering"]["properties"]["name"]["enum"] == list(get_args(LoweringName))


@pytest.mark.parametrize("key", ["path", "decisions", "layer_name"])
def test_a_call_that_lacks_a_key_is_not_valid(key: str) -> None:
    content = json.loads(to_json(small_report()))
    del content["calls"][0][key]
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(content)


DOCUMENT = (Path(__file__).parents[2] / "docs" / "report-json.md").read_text()


def test_the_documented_program_reads_a_report_without_fxkernels(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(to_json(small_report()))
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    done = subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, check=False, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "model.layers.0.input_layernorm: rewritten by acme/norms"
    assert lines[-1] == "lm_head.proj: missed (no_mapping)"


def test_the_documented_schema_and_keys_are_those_that_are_written() -> None:
    assert f'"{SCHEMA}"' in DOCUMENT
    for cls in (ReportData, CallReport, GraphDecision):
        assert [name for name in keys_of(cls) if f"`{name}`" not in DOCUMENT] == []
