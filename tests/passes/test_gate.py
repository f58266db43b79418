"""Gates and their answers."""

from __future__ import annotations

import pytest

from fxkernels.passes.gate import CandidateResult, Gate, GateResult
from fxkernels.passes.miss import Miss

GATE = Gate("weather", "call", ("rain", "snow"))
RAIN = Miss("rain", "it rains since {time}", {"time": "noon"})


def test_an_answer_has_the_name_of_its_gate() -> None:
    assert GATE.passed("sunny") == GateResult("weather", note="sunny")
    assert GATE.failed(RAIN) == GateResult("weather", "failed", RAIN)
    assert GATE.unknown("it is dark") == GateResult("weather", "unknown", note="it is dark")


def test_a_question_without_a_miss_is_passed() -> None:
    assert (GATE.of(None).outcome, GATE.of(RAIN).outcome) == ("passed", "failed")


def test_a_gate_fails_only_with_the_codes_that_it_declares() -> None:
    with pytest.raises(ValueError, match="gate weather fails with 'hail', and declares only rain, snow"):
        GATE.failed(Miss("hail", "it hails"))


@pytest.mark.parametrize(("outcome", "miss"), [("passed", RAIN), ("failed", None), ("unknown", RAIN)])
def test_an_answer_that_contradicts_itself_is_refused(outcome: str, miss: Miss | None) -> None:
    with pytest.raises(ValueError, match="contradict each other"):
        GateResult("weather", outcome, miss)  # type: ignore[arg-type]


def test_a_candidate_fails_with_its_last_gate_and_is_unknown_if_any_gate_is() -> None:
    failed = CandidateResult("acme/norms:RMSNorm", (GATE.unknown("it is dark"), GATE.failed(RAIN)))
    assert (failed.outcome, failed.miss) == ("failed", RAIN)
    assert CandidateResult("acme/norms:RMSNorm", (GATE.unknown("it is dark"), GATE.passed())).outcome == "unknown"
    assert CandidateResult("acme/norms:RMSNorm", (GATE.passed(),)).outcome == "passed"
