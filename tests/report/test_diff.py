"""The diff: hunks are layer calls, folded, with outliers of their own. The golden files are what `Report.diff` returns."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from report.goldens import check_golden
from report.reports import llama_like, small_report

from fxkernels import explain, use_kernel_mapping
from fxkernels.builtin import builtin_mapping
from fxkernels.demo_model import decoder
from fxkernels.report.report import Report

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locations are shown as seen from here."""
    monkeypatch.chdir(ROOT)


def hunks(report: Report) -> list[str]:
    return [line for line in report.diff().splitlines() if line.startswith("@@")]


def test_diff_of_one_call_of_everything_is_the_golden_one() -> None:
    check_golden("everything.diff", small_report().diff())


def test_diff_of_a_folded_model_is_the_golden_one() -> None:
    check_golden("folded.diff", llama_like(32, missed_in={3, 7}).diff())


def test_diff_of_the_demo_decoder_is_the_golden_one() -> None:
    model, args = decoder(length=16, layers=2)
    with use_kernel_mapping(builtin_mapping(), inherit_mapping=False):
        check_golden("decoder.diff", explain(model, *args).diff())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_diff_of_a_llama_is_the_golden_one() -> None:
    transformers = pytest.importorskip("transformers", "5.0")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 99}
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_hidden_layers=2, **sizes)).eval()
    with use_kernel_mapping(builtin_mapping(), inherit_mapping=False):
        report = explain(model, input_ids=torch.arange(8)[None])
    check_golden("llama.diff", re.sub(r"\.py:[0-9]+", ".py:LINE", report.diff()))  # they move with the version of transformers


def test_identical_calls_share_a_hunk_and_outliers_have_their_own() -> None:
    assert [line.split("  ")[0] for line in hunks(llama_like(8, missed_in={3}))] == [
        "@@ model.layers.{0..2,4..7}.input_layernorm x7",
        "@@ model.layers.{0..7}.post_attention_layernorm x8",
        "@@ model.layers.{0..7}.mlp x8",
        "@@ model.layers.3.input_layernorm",
        "@@ model.norm",
    ]


def test_a_call_with_other_shapes_is_an_outlier_too() -> None:
    report = llama_like(4)
    call = report.calls[0]
    narrow = replace(call.decisions[0], inputs=("hidden_states: bf16[2, 8, 32]", "self.weight: bf16[32]"))
    report = replace(report, calls=(replace(call, decisions=(narrow,)), *report.calls[1:]))
    found = [line.split("  ")[0] for line in hunks(report) if "input_layernorm" in line]
    assert found == ["@@ model.layers.0.input_layernorm", "@@ model.layers.{1..3}.input_layernorm x3"]


def test_a_call_that_stays_has_a_hunk_only_if_others_like_it_change() -> None:
    stays = "mutation: copy_ writes into cache, which exists outside of the call"
    assert [line.partition(" @@ stays: ")[2] for line in hunks(small_report()) if "rotary" in line] == []
    report = small_report()
    rotary = next(call for call in report.calls if call.status == "unknown")
    changed = replace(rotary, decisions=(replace(rotary.decisions[0], after=rotary.decisions[0].before[-1:]),))
    report = replace(report, calls=tuple(changed if call is rotary else call for call in report.calls))
    assert [line.partition(" @@ stays: ")[2] for line in hunks(report) if "rotary" in line] == [stays, ""]


def test_decisions_of_several_graphs_have_hunks_of_their_own() -> None:
    assert [line.split("  ")[0::3] for line in hunks(small_report()) if "model.norm" in line] == [
        ["@@ model.norm#0", "graph 1 @@ stays: no_backward: acme/norms@9a31f0c:RMSNorm has no backward and the layer is in training mode"],
        ["@@ model.norm#1", "graph 0 @@"],
        ["@@ model.norm#0", "graph 0 @@"],
    ]


def test_a_report_in_which_nothing_changes_says_so_in_one_line() -> None:
    model, args = decoder(length=16, layers=1)
    assert explain(model, *args).diff() == "# 5 layer calls stay as they are: missed 5 (no_mapping x5)"
    assert Report().diff() == "# no annotated layer was called"
    assert Report(pending=True).diff().startswith("# nothing captured yet")
