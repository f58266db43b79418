"""Comparisons of reports; the golden files under `golden/` are what ``print(report.compare(other))`` shows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from report.goldens import check_golden
from report.report_strategies import reports
from report.reports import (
    CPU,
    FAST_NORMS,
    NORM_BEFORE,
    OPAQUE,
    REWRITTEN_NORM,
    call,
    llama_like,
    missed_in_training,
    not_captured,
    rewritten_mlp,
    rewritten_norm,
    small_report,
    unknown_rotary,
    wrong_dtype,
)

from fxkernels.decide.gates import names_of
from fxkernels.passes.gate import GateResult
from fxkernels.passes.miss import Miss
from fxkernels.report.compare import Comparison, Difference, compare, render_comparison
from fxkernels.report.json import to_json
from fxkernels.report.model import CallReport, Evidence, GraphDecision
from fxkernels.report.report import Report

CALL_GATES = names_of("call", "form")
CANDIDATE_GATES = names_of("candidate", "selection")

NORM = rewritten_norm("norm", "mul")


def compared(before: CallReport, after: CallReport) -> Comparison:
    return compare(Report((before,)), Report((after,)))


def differences(**changed: object) -> list[Difference]:
    """What is different where the decision about a norm has these other fields."""
    after = call("norm", "RMSNorm", replace(REWRITTEN_NORM, **changed))  # type: ignore[arg-type]
    return [difference for change in compared(NORM, after).calls for difference in change.differences()]


# --- text -------------------------------------------------------------------------------------------------------------------------------


def test_a_kernel_that_was_lost_in_most_layers_is_the_golden_comparison() -> None:
    after = replace(
        llama_like(32, range(3, 32)),
        versions=(("fxkernels", "0.1.0"), ("torch", "2.14.0")),
        targets=(CPU,),
        notes=("Dynamo's recompile limit was reached in forward (model.py:40): new inputs run the original code there",),
    )
    check_golden("compare_llama_80.txt", render_comparison(compare(llama_like(32), after), 80))


def test_the_comparison_of_two_models_is_the_golden_one() -> None:
    check_golden("compare_everything_80.txt", render_comparison(compare(small_report(), llama_like(4)), 80))


def test_equal_reports_have_no_difference() -> None:
    comparison = compare(llama_like(2), llama_like(2))
    assert comparison.is_empty
    assert not comparison
    assert str(comparison) == "no difference: 9 calls are decided alike"


def test_a_comparison_fits_the_width() -> None:
    comparison = compare(small_report(), llama_like(4))
    for width in (60, 80, 120):
        assert max(map(len, render_comparison(comparison, width).splitlines())) <= width


# --- what is compared -------------------------------------------------------------------------------------------------------------------


@given(reports())
@settings(max_examples=40)
def test_a_report_that_was_saved_is_no_other_one(report: Report) -> None:
    assert compare(report, Report.from_json(to_json(report))).is_empty
    assert compare(Report.from_json(to_json(report)), report).is_empty


def test_a_live_report_with_kernels_in_its_misses_equals_the_saved_one() -> None:
    assert compare(small_report(), Report.from_json(to_json(small_report()))).is_empty


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        (
            {"kernel": replace(REWRITTEN_NORM.kernel, revision="1b2c3d4e" * 5)},  # type: ignore[type-var]
            Difference(
                "", "rewritten by acme/norms@9a31f0c:RMSNorm (torch-universal)", "rewritten by acme/norms@1b2c3d4:RMSNorm (torch-universal)"
            ),
        ),
        ({"training": True}, Difference("mode", "inference", "training")),
        ({"evidence": Evidence("unverified")}, Difference("evidence", "probed", "unverified")),
        ({"lowering": OPAQUE}, Difference("lowering", "traced", "opaque; clones hidden_states: the kernel overwrites it")),
        ({"misses": ()}, Difference("passed over", "layout: x has stride 2 in its last dimension, the kernel reads it as 1", "")),
        (
            {"inputs": ("hidden_states: bf16[2, s0, 64]", "self.weight: bf16[64]")},
            Difference("input hidden_states", "bf16[2, 8, 64]", "bf16[2, s0, 64]"),
        ),
        ({"inputs": ("hidden_states: bf16[2, 8, 64]",)}, Difference("input self.weight", "bf16[64]", "")),
        (
            {"before": (*NORM_BEFORE[:1], replace(NORM_BEFORE[1], code="v0.square()"), *NORM_BEFORE[2:])},
            Difference("operations", "v0.pow(2)", "v0.square()"),
        ),
        ({"before": NORM_BEFORE[:-1]}, Difference("operations", "self.weight * v5", "")),
    ],
    ids=["revision", "training", "evidence", "lowering", "passed over", "shape", "input gone", "operation", "operation gone"],
)
def test_what_a_decision_says_is_compared(changed: dict[str, object], difference: Difference) -> None:
    assert differences(**changed) == [difference]


@pytest.mark.parametrize(
    "changed",
    [
        {"node": "mul_7"},
        {"reads": ("other#0",)},
        {"before": tuple(replace(operation, location="model.py:99") for operation in NORM_BEFORE)},
        {"gates": tuple(GateResult(name, note="as it was") for name in CALL_GATES)},
        {"graph": 4},
    ],
    ids=["node", "reads", "lines of the source", "notes of gates", "number of the graph"],
)
def test_what_differs_from_one_capture_to_the_next_is_not_compared(changed: dict[str, object]) -> None:
    assert differences(**changed) == []


def test_nodes_of_other_names_are_no_other_reason() -> None:
    one, other = (
        call("norm", "RMSNorm", GraphDecision(0, "missed", None, (Miss("random", "{node} is random", {"node": name}),))) for name in "ab"
    )
    assert compared(one, other).is_empty


def test_a_graph_that_decided_otherwise_is_a_difference() -> None:
    after = call("norm", "RMSNorm", missed_in_training(0), replace(REWRITTEN_NORM, graph=1))
    (change,) = compared(NORM, after).calls
    earlier = "missed (no_backward: acme/norms@9a31f0c:RMSNorm has no backward and the layer is in training mode)"
    assert change.differences() == (Difference("earlier graphs", "", earlier),)


def test_another_layer_of_the_same_name_is_a_difference() -> None:
    (change,) = compared(NORM, replace(NORM, layer="other.RMSNorm")).calls
    assert change.differences() == (Difference("layer", "RMSNorm (model.RMSNorm)", "RMSNorm (other.RMSNorm)"),)


def test_notes_and_targets_and_graphs_are_compared() -> None:
    before, after = Report(notes=("one", "both")), Report(notes=("both", "two"), targets=(CPU,), pending=True)
    assert compare(before, after).captures == (
        Difference("captured", "dynamo", "not yet"),
        Difference("target", "", "cpu torch2.13 linux-x86_64"),
        Difference("note", "one", ""),
        Difference("note", "", "two"),
    )


# --- lost kernels -----------------------------------------------------------------------------------------------------------------------

(MLP, SILU) = rewritten_mlp("norm", "linear")


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        (NORM, call("norm", "RMSNorm", wrong_dtype()), True),
        (NORM, call("norm", "RMSNorm", not_captured()), True),
        (call("norm", "rotary_pos_emb", unknown_rotary("")), call("norm", "RMSNorm", wrong_dtype()), True),
        (NORM, None, True),
        (NORM, call("norm", "rotary_pos_emb", unknown_rotary("")), False),
        (NORM, call("norm", "RMSNorm", replace(REWRITTEN_NORM, kernel=FAST_NORMS)), False),
        (NORM, replace(SILU, path="norm"), False),
        (call("norm", "RMSNorm", wrong_dtype()), NORM, False),
        (call("norm", "RMSNorm", wrong_dtype()), call("norm", "RMSNorm", not_captured()), False),
        (None, call("norm", "RMSNorm", wrong_dtype()), False),
    ],
)
def test_a_call_is_lost_if_it_ran_a_kernel_and_none_runs_there_now(before: CallReport | None, after: CallReport | None, lost: bool) -> None:
    reports = [Report(tuple(filter(None, [side]))) for side in (before, after)]
    assert bool(compare(*reports).lost) is lost
