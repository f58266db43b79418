"""The golden files under `report/golden/` are what a failed assertion shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kernel_repositories import repository
from report.goldens import check_golden
from report.reports import llama_like, small_report

from fxkernels import kernelize
from fxkernels.demo_model import decoder
from fxkernels.report.report import Report
from fxkernels.report.terminal import render_text
from fxkernels.testing import assert_missed, assert_rewritten


def message(assertion: Callable[[], None]) -> str:
    with pytest.raises(AssertionError) as failure:
        assertion()
    return str(failure.value)


def check_message(name: str, report: Report, assertion: Callable[[], None]) -> None:
    """The golden file has what comes before the report itself."""
    text, tree = message(assertion), f"\n\n{render_text(report, 100)}"
    assert text.endswith(tree)
    check_golden(name, text.removesuffix(tree))


# --- what holds -------------------------------------------------------------------------------------------------------------------------


def test_the_layers_of_a_model_are_counted_by_name() -> None:
    assert_rewritten(llama_like(32), RMSNorm=65, GatedMLP=32, SiLU=0)
    assert_rewritten(llama_like(32, [3]), RMSNorm=64)


@pytest.mark.parametrize(
    "path",
    ["model.norm", "model.norm#0", "model.layers.1.mlp", "model.layers.*.mlp", "model.layers.[12].*_layernorm", "model.layers.{0..3}.mlp"],
)
def test_paths_are_exact_or_have_wildcards_or_are_folded(path: str) -> None:
    assert_rewritten(llama_like(4), path)


def test_a_miss_has_the_code_of_its_first_reason() -> None:
    report = small_report()
    assert_missed(report, "lm_head.norm", code="dtype")
    assert_missed(report, "lm_head.*")
    assert_missed(report, "model.embed_norm", code="excluded")
    assert_missed(report, "model.projector.norm", code="not_captured")
    assert_missed(report, "model.layers.*.mlp.act_fn", code="covered")


def test_assertions_hold_for_a_kernelized_model() -> None:
    model, args = decoder(length=16, layers=2)
    kernelized = kernelize(model, mapping={"RMSNorm": {"cpu": repository("norms", "RMSNorm")}})
    with torch.no_grad():
        kernelized(*args)
    assert_rewritten(kernelized.report, RMSNorm=5)
    assert_missed(kernelized.report, "layers.*.mlp.activation", code="no_mapping")


# --- what does not ----------------------------------------------------------------------------------------------------------------------


def test_too_few_rewritten_calls_are_named_with_their_reasons_and_the_report() -> None:
    report = llama_like(4, [1, 2])
    check_message("assert_too_few.txt", report, lambda: assert_rewritten(report, RMSNorm=9))


def test_too_many_rewritten_calls_are_named() -> None:
    text = message(lambda: assert_rewritten(llama_like(2), GatedMLP=1))
    assert text.splitlines()[0] == "2 of 2 calls of GatedMLP run a kernel, 1 should"
    assert text.splitlines()[1].startswith("  model.layers.{0..1}.mlp x2: rewritten by acme/mlp@v1:GatedMLP")


def test_all_that_does_not_hold_is_told_at_once() -> None:
    report = small_report()
    paths = ("lm_head.norm", "model.norm#0")
    check_message("assert_several.txt", report, lambda: assert_rewritten(report, *paths, RMSNorm=99, GatedMLP=2, Linear=1))


def test_a_kernel_of_which_nobody_knows_whether_it_runs_does_not_count() -> None:
    text = message(lambda: assert_rewritten(small_report(), "model.layers.1.self_attn.rotary_pos_emb"))
    assert "model.layers.1.self_attn.rotary_pos_emb: unknown (rotary:rotary_pos_emb; not asked: admission)" in text
    assert "is not missed" in message(lambda: assert_missed(small_report(), "model.layers.1.self_attn.rotary_pos_emb"))


def test_a_miss_for_another_reason_is_named_with_it() -> None:
    report = small_report()
    check_message("assert_other_reason.txt", report, lambda: assert_missed(report, "lm_head.norm", code="layout"))


def test_a_call_that_runs_a_kernel_is_not_missed() -> None:
    text = message(lambda: assert_missed(llama_like(4), "model.norm"))
    assert text.splitlines()[:2] == [
        "model.norm is not missed",
        "  model.norm: rewritten by acme/norms@9a31f0c:RMSNorm (torch-universal)",
    ]


# --- wrong names ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assertion", "text"),
    [
        (
            lambda report: assert_rewritten(report, RMSnorm=5),
            "no layer in the report has the name 'RMSnorm'; did you mean 'RMSNorm'? there are: GatedMLP x2, RMSNorm x5, SiLU x2",
        ),
        (
            lambda report: assert_rewritten(report, conv=0),
            "no layer in the report has the name 'conv'; there are: GatedMLP x2, RMSNorm x5, SiLU x2",
        ),
        (
            lambda report: assert_missed(report, "model.layers"),
            "model.layers is not a layer call, but contains some: model.layers.0.input_layernorm, model.layers.0.post_attention_layernorm, "
            "model.layers.0.mlp, model.layers.0.mlp.act_fn, model.layers.1.input_layernorm, model.layers.1.post_attention_layernorm, "
            "model.layers.1.mlp, model.layers.1.mlp.act_fn",
        ),
        (
            lambda report: assert_rewritten(report, "layer.*"),
            "no call in the report matches 'layer.*'; it has model.layers.{0..1}.input_layernorm, "
            "model.layers.{0..1}.post_attention_layernorm, model.layers.{0..1}.mlp, model.layers.{0..1}.mlp.act_fn, model.norm",
        ),
        (
            lambda report: assert_missed(report, "model.norm", code="dtyp"),
            "there is no miss code 'dtyp'; did you mean 'dtype'? decide/gates.py lists them",
        ),
        (
            lambda report: assert_rewritten(Report(pending=True), RMSNorm=1),
            "no layer named 'RMSNorm' can be found: nothing captured yet: the first call captures the model",
        ),
    ],
)
def test_a_name_that_is_not_there_is_an_error_with_the_nearest_one(assertion: Callable[[Report], None], text: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 # the whole message is compared
        assertion(llama_like(2))
    assert str(error.value) == text


def test_a_mistyped_path_is_an_error_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match=r"no layer call 'lm_head.nrom'; did you mean lm_head.norm"):
        assert_missed(small_report(), "lm_head.nrom")


@pytest.mark.parametrize("assertion", [assert_rewritten, assert_missed])
def test_an_assertion_that_asks_nothing_is_an_error(assertion: Callable[[Report], None]) -> None:
    with pytest.raises(TypeError, match="needs"):
        assertion(llama_like(2))
