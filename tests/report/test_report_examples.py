from __future__ import annotations

from typing import get_args

from report.reports import large_report, llama_like, small_report

from fxkernels.passes.plan import Status


def test_the_small_report_has_every_status_and_every_outcome_of_a_gate() -> None:
    report = small_report()
    assert set(report.counts) == set(get_args(Status))
    decisions = [decision for call in report.calls for decision in call.decisions]
    outcomes = {gate.outcome for d in decisions for gates in (d.gates, *(c.gates for c in d.candidates)) for gate in gates}
    assert outcomes == {"passed", "failed", "unknown"}


def test_calls_read_calls_that_are_in_the_report() -> None:
    for report in (small_report(), llama_like(), large_report(1000)):
        keys = [call.key for call in report.calls]
        assert len(set(keys)) == len(keys)
        assert {key for call in report.calls for decision in call.decisions for key in decision.reads} <= set(keys)


def test_the_large_report_has_the_asked_number_of_calls() -> None:
    assert len(large_report(100).calls) == 100
