"""Each measured hazard, in the hands of a user: right numbers, and a report that says why, or that copies repair it.

What is found here is the table of docs/trust.md. After a change: ``pytest tests/hazards --write-hazards``, ``python benchmarks/render.py``.
"""

from __future__ import annotations

import re

import pytest
from hazard_cases import CASES, HAZARDS, TWINS, Case
from hazard_findings import Finding, Inner, Way, finding

WAYS = pytest.mark.parametrize("way", ["kernelize", "backend"])
INNERS = pytest.mark.parametrize("inner", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])


def row_of(case: Case, found: Finding) -> dict[str, str]:
    """What the table says of a case."""
    hazard, harm = HAZARDS[case.hazard]
    evidence = re.sub(r"^\S+:\S+: ", "", found.message)
    return {
        "case": str(case),
        "#": case.hazard,
        "hazard": hazard,
        "harm": harm,
        "kernel": f"{case.repository}:{case.layer}",
        "report": f"`{found.code}`: {evidence}" if found.code else evidence,
        "verdict": found.verdict,
    }


@INNERS
@WAYS
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_hazard_does_no_harm_and_the_report_says_why(case: Case, way: Way, inner: Inner, recorded: dict[str, dict[str, str]]) -> None:
    found = finding(case, way, inner)
    assert found.wrong == ()
    assert (found.verdict, found.code) == (case.verdict, case.code)
    assert case.words in found.message
    row = recorded.setdefault(str(case), row_of(case, found))
    assert {**row, "report": ""} == {**row_of(case, found), "report": ""}  # figures differ from machine to machine


@pytest.mark.slow
@pytest.mark.parametrize("inner", ["eager", "inductor"])
@WAYS
@pytest.mark.parametrize("case", TWINS, ids=[f"{case.layer}-{number}" for number, case in enumerate(TWINS)])
def test_the_same_kernel_without_the_hazard_runs(case: Case, way: Way, inner: Inner) -> None:
    found = finding(case, way, inner)
    assert (found.wrong, found.status) == ((), "rewritten")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_without_verification_the_hazard_does_harm_unless_something_else_finds_it(case: Case) -> None:
    assert bool(finding(case, "backend", "eager", verify="off").wrong) == (case.found_by == "probe")


def test_every_measured_hazard_has_its_cases() -> None:
    assert {case.hazard for case in CASES} == set(HAZARDS)
