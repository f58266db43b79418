from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from report.reports import small_report

from fxkernels.report.json import from_json, to_json

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
        ("{}", "this is no report of fxkernels: it lacks the key 'schema', and this version reads 'fxkernels.report/1'"),
        (
            '{"schema": "fxkernels.report/9"}',
            "this is a report of schema 'fxkernels.report/9', and this version reads 'fxkernels.report/1'; read it with the version of "
            "fxkernels that wrote it, or write it anew",
        ),
        ('{"schema": "fxkernels.report/1"}', "this report lacks the key 'calls'"),
    ],
)
def test_what_is_no_report_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 # the whole message is compared
        from_json(text)
    assert str(error.value) == message


def set_(*path: Any, to: Any) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = to

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["calls"][3].pop("path"), "calls[3] lacks the key 'path'"),
        (lambda c: c["calls"][0]["decisions"][0].pop("form"), "calls[0].decisions[0] lacks the key 'form'"),
        (lambda c: c["forms"][0].pop("status"), "forms[0] lacks the key 'status'"),
        (lambda c: c["kernels"][0].pop("layer"), "kernels[0] lacks the key 'layer'"),
        (lambda c: c["targets"][0].pop("os"), "targets[0] lacks the key 'os'"),
        (set_("calls", to={}), "calls is {}; it must be a list"),
        (set_("calls", 1, to=7), "calls[1] is 7; it must be an object"),
        (set_("calls", 1, "path", to=7), "calls[1].path is 7; it must be a string"),
        (set_("calls", 1, "index", to="0"), "calls[1].index is '0'; it must be an integer"),
        (set_("calls", 1, "index", to=True), "calls[1].index is True; it must be an integer"),
        (set_("calls", 1, "decisions", to=[]), "calls[1].decisions is empty; a call has at least one decision"),
        (
            set_("calls", 1, "decisions", 0, "form", to=99),
            "calls[1].decisions[0].form is 99; it must be the number of one of the 12 forms, from 0",
        ),
        (
            set_("calls", 2, "decisions", 0, "reads", to=[-1]),
            "calls[2].decisions[0].reads[0] is -1; it must be the number of one of the 15 calls, from 0",
        ),
        (
            set_("calls", 1, "note", to="x"),
            "calls[1] has the key 'note', which 'fxkernels.report/1' does not know; was it written by a newer fxkernels?",
        ),
        (set_("forms", 0, "training", to=1), "forms[0].training is 1; it must be true or false"),
        (
            set_("forms", 0, "status", to="fine"),
            "forms[0].status is 'fine'; it must be one of rewritten, missed, excluded, covered, not_captured, unknown",
        ),
        (set_("misses", 0, "code", to="mood"), "misses[0] cannot be: unknown miss code 'mood'; the codes are listed in passes/miss.py"),
        (set_("misses", 0, "template", to="{a"), "misses[0].template cannot be read: expected '}' before end of string"),
        (set_("misses", 0, "template", to="{a}"), "misses[0].data lacks the key 'a', which the template names"),
        (set_("misses", 0, "template", to="{name.__class__}"), "misses[0].data lacks the key 'name.__class__', which the template names"),
        (set_("misses", 0, "template", to="{name:>9999999999}"), "misses[0].template formats 'name' in a way that stored templates do not"),
        (
            set_("misses", 0, "data", "name", to=[]),
            "misses[0].data.name is []; it must be a string, a number, true, false or null",
        ),
        (
            set_("gates", 0, "outcome", to="failed"),
            "gates[0] cannot be: gate filter has outcome failed and miss=None, which contradict each other",
        ),
        (set_("versions", 0, to=["torch"]), "versions[0] is ['torch']; it must be a list of 2"),
        (
            set_("mood", to=1),
            "this report has the key 'mood', which 'fxkernels.report/1' does not know; was it written by a newer fxkernels?",
        ),
    ],
)
def test_what_is_not_as_it_should_be_is_refused_with_its_place(edit: Edit, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 # the whole message is compared
        from_json(edited(edit))
    assert str(error.value) == message


def test_calls_that_were_decided_alike_share_one_value_again() -> None:
    report = from_json(to_json(small_report()))
    first, second = (report.calls[n].decisions[0] for n in range(2))
    assert first.before is second.before
    assert first.candidates is second.candidates
