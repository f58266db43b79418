"""Why: the gate chain of one call, the nearest candidate and what would help. The golden files are what printing it shows."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from kernel_repositories import repository
from report.goldens import check_golden
from report.reports import NORMS, asked, call, llama_like, small_report

from fxkernels import explain, use_kernel_mapping
from fxkernels.decide.gates import CODES, names_of
from fxkernels.demo_model import decoder
from fxkernels.passes.gate import CandidateResult
from fxkernels.passes.miss import Miss
from fxkernels.report.hints import hint_for
from fxkernels.report.model import CallReport, GraphDecision
from fxkernels.report.report import Report
from fxkernels.report.why import render_why

CALL_GATES = names_of("call", "form")
CANDIDATE_GATES = names_of("candidate", "selection")


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("model.layers.0.input_layernorm", "why_rewritten"),
        ("model.layers.0.self_attn.rotary_pos_emb", "why_region"),
        ("model.layers.1.self_attn.rotary_pos_emb", "why_unknown"),
        ("model.layers.{0..1}.mlp", "why_opaque"),
        ("model.layers.1.mlp.act_fn", "why_covered"),
        ("model.norm", "why_two_graphs"),
        ("model.embed_norm", "why_excluded"),
        ("model.projector.norm", "why_not_captured"),
        ("lm_head.norm", "why_candidates"),
        ("lm_head.proj", "why_unmapped"),
    ],
)
def test_the_explanation_of_each_kind_of_call_is_the_golden_one(name: str, golden: str) -> None:
    check_golden(f"{golden}.txt", render_why(small_report().why(name), 80))


def test_an_outlier_is_compared_with_the_calls_like_it_that_got_a_kernel() -> None:
    check_golden("why_outlier.txt", render_why(llama_like(32, missed_in={3, 7}).why("model.layers.3.input_layernorm"), 80))


def test_the_value_has_the_first_failure_the_nearest_candidate_and_the_change() -> None:
    why = small_report().why("model.norm#0")
    assert (why.status, why.change) == ("missed", "in eval mode, or with backward='recompute'")
    assert why.miss is not None
    assert why.miss.code == "no_backward"
    assert why.nearest is not None
    assert why.nearest.kernel == NORMS


def test_the_nearest_candidate_is_the_one_whose_failing_gate_comes_last() -> None:
    wrong, late = Miss("signature", "another signature"), Miss("shape", "{x}", {"x": "no", "change": "with dim(x, -1) = 104"})
    candidates = (
        CandidateResult("early", asked(CANDIDATE_GATES, wrong, "contract")),
        CandidateResult("late", asked(CANDIDATE_GATES, late, "constraints")),
        CandidateResult("middle", asked(CANDIDATE_GATES, wrong, "inputs")),
    )
    decision = GraphDecision(0, "missed", None, (wrong, late, wrong), gates=asked(CALL_GATES), candidates=candidates)
    why = Report((call("norm", "RMSNorm", decision),)).why("norm")
    assert why.nearest is candidates[1]
    assert why.change == "with dim(x, -1) = 104"
    assert "late came closest. It would match with dim(x, -1) = 104." in str(why)


def test_a_kernel_that_is_turned_away_is_explained_on_a_real_model() -> None:
    model, args = decoder(length=16, layers=2)
    with use_kernel_mapping({"RMSNorm": {"cpu": repository("norms", "InferenceRMSNorm")}}, inherit_mapping=False):
        why = explain(model.train(), *args).why("layers.1.input_layernorm")
    assert (why.status, why.change) == ("missed", "in eval mode, or with backward='recompute'")
    assert "failed  mode: no_backward" in str(why)
    assert "hidden_states: f32[1, 16, 512]" in str(why)


def test_a_constraint_that_a_call_does_not_meet_names_the_smallest_change() -> None:
    model, args = decoder(length=18, layers=1)
    with use_kernel_mapping({"RMSNorm": {"cpu": repository("constrained", "FoursRMSNorm")}}, inherit_mapping=False):
        why = explain(model, *args).why("norm")
    assert why.change == "with dim(hidden_states, -2) = 20"
    assert "It would match with dim(hidden_states, -2) = 20." in str(why)


def test_a_path_that_is_called_twice_is_explained_for_both_calls() -> None:
    assert [explanation.call.key for explanation in small_report().why("model.norm").explanations] == [
        "model.norm#0",
        "model.norm#0",
        "model.norm#1",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.layers.0.input_layernrom", "did you mean model.layers.0.input_layernorm or model.layers.1.input_layernorm"),
        ("projector.norm", "did you mean model.projector.norm"),
        ("mlp", "did you mean model.layers.0.mlp or model.layers.1.mlp?"),
        ("model.layers.0", "model.layers.0 is not a layer call, but contains some: model.layers.0.input_layernorm, "),
        ("model.norm#7", "model.norm has no call #7; its calls are model.norm#0, model.norm#1"),
        ("xyz", "there is no layer call 'xyz'; the calls are model.layers.{0..1}.input_layernorm, "),
    ],
)
def test_a_name_that_does_not_exist_is_an_error_that_suggests_others(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        small_report().why(name)


def test_a_layer_name_that_was_read_from_the_source_comes_with_its_place() -> None:
    norm = small_report().calls[0]
    report = Report((replace(norm, annotation="/usr/lib/python3/site-packages/acme/norms.py:7"),))
    assert f"Layer name {norm.layer_name} (read at acme/norms.py:7), " in str(report.why(norm.path)).replace("\n", " ")


def test_a_report_without_calls_says_that_there_are_none() -> None:
    with pytest.raises(ValueError, match="no annotated layer was called"):
        Report().why("norm")
    with pytest.raises(ValueError, match="nothing has been captured yet"):
        Report(pending=True).why("norm")


@pytest.mark.parametrize(
    ("miss", "change"),
    [
        (Miss("no_mapping", "", {"mapped": "GatedMLP, RMSNorm"}), "with a kernel mapped to 'RMSNrom'; the mapping has 'RMSNorm'"),
        (Miss("no_mapping", "", {"mapped": "nothing"}), "with a kernel mapped to 'RMSNrom'"),
        (Miss("excluded", "the path matches none of only="), "with a glob such as 'norm' in only="),
        (Miss("no_device", "", {"device": "xpu"}), "with a kernel mapped for xpu"),
        (Miss("no_device", "", {"device": "cpu", "asked": "cuda"}), "with device='cpu', or without device="),
        (Miss("not_compilable", ""), "with opaque=True, which runs it as an operator of its own"),
        (Miss("mutation", ""), "if the layer returned a new tensor instead of writing into the target"),
        (Miss("dtype", "", {"change": "with weight in bfloat16"}), "with weight in bfloat16"),
    ],
)
def test_the_change_comes_from_the_miss_or_from_its_code(miss: Miss, change: str) -> None:
    misspelt = CallReport("norm", 0, "RMSNrom", "Norm", None, (GraphDecision(0, "missed", None, (miss,)),))
    assert hint_for(miss, misspelt) == change


@pytest.mark.parametrize("code", CODES)
def test_every_code_can_be_asked_for_a_change_whatever_its_data(code: str) -> None:
    phrase = hint_for(Miss(code, "no fields"), call("norm", "RMSNorm", GraphDecision(0, "missed")))
    assert phrase == phrase.strip()
    assert not phrase.endswith(".")


@pytest.mark.parametrize("width", [1, 40, 80, 200])
def test_no_word_of_an_explanation_is_lost_at_any_width(width: int) -> None:
    for key in (each.key for each in small_report().calls):
        why = small_report().why(key)
        assert render_why(why, width).split() == render_why(why, 1000).split()


def test_a_change_is_not_recommended_for_a_call_that_runs_a_kernel() -> None:
    report = small_report()
    assert report.why("model.layers.0.input_layernorm").change == ""
    covered = replace(report, calls=report.calls[4:6])
    assert covered.calls[-1].status == "covered"
    assert covered.why(covered.calls[-1].path).change == ""
