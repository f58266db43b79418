"""What a probe says of a kernel, and what it does not hold against it. All kernels that are wrong: ``tests/hazards``."""

from __future__ import annotations

import random

import pytest
import torch
from hazard_probe_cases import norm_probe_case, rotary_probe_case

from fxkernels.admission.probe import probe

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@BOTH
@pytest.mark.parametrize(
    ("layer", "code", "words"),
    [
        ("hazard-1-incoming-gradient:RMSNorm", "gradient", "its backward overwrites the incoming gradient"),
        ("hazard-2-saved-activations:RMSNorm", "gradient", "in a second backward, its gradient of"),
        ("hazard-7-repacked-parameters:RMSNorm", "mutates_input", "its forward overwrites self.weight"),
        ("hazard-9-other-function:ZeroCentredRMSNorm", "numerics", "output 0 is off by"),
        ("AddsToWeightGrad", "gradient", "its backward writes self.weight.grad"),
        ("ReusesGradientBuffer", "numerics", "a later call changes an earlier gradient of self.weight"),
        ("WritesPastTheEnd", "mutates_input", "past the end of an input"),
        ("WritesSelf", "own_state", "it sets self.last"),
        ("PatchesTorch", "own_state", "it changes torch.nn.functional.silu"),
        ("Raises", "crash", "it raises RuntimeError: no such shape"),
    ],
)
def test_a_wrong_kernel_is_refused_with_what_it_got_wrong(layer: str, code: str, words: str, dtype: torch.dtype) -> None:
    verdict = probe(norm_probe_case(layer, dtype))
    assert (verdict.result, verdict.code) == ("refused", code)
    assert words in verdict.message


def test_a_kernel_that_overwrites_transposed_queries_and_keys_gets_copies() -> None:
    verdict = probe(rotary_probe_case("hazard-3-transposed-queries:rotary_pos_emb"))
    assert (verdict.result, verdict.repairs.copied_inputs) == ("admitted", (0, 1))
    assert verdict.evidence["repairs"] == ["it overwrites input 0, input 1, and gets copies"]


def test_an_ignored_argument_is_refused_only_where_the_call_passes_another_value() -> None:
    assert probe(rotary_probe_case("hazard-4-ignored-argument:rotary_pos_emb")).result == "admitted"
    assert probe(rotary_probe_case("hazard-4-ignored-argument:rotary_pos_emb", unsqueeze_dim=2)).result == "refused"


def test_a_detached_output_is_right_outside_of_training_with_the_references_gradient() -> None:
    verdict = probe(norm_probe_case("hazard-5-cut-gradient:DetachedOutput", training=False))
    assert (verdict.result, verdict.repairs.recompute) == ("admitted", "no gradient flows through it")


def test_a_kernel_is_not_asked_for_a_gradient_that_nobody_wants() -> None:
    assert probe(norm_probe_case("hazard-5-cut-gradient:IdentityGradient", gradient=False)).result == "admitted"


@BOTH
def test_the_same_norm_without_a_bug_is_admitted(dtype: torch.dtype) -> None:
    verdict = probe(norm_probe_case("hazard-twins:RMSNorm", dtype))
    assert verdict.result == "admitted"
    assert set(verdict.evidence["errors"]) == {"output 0", "gradient of input 0", "gradient of self.weight"}


def test_a_probe_leaves_random_numbers_and_settings_as_they_were() -> None:
    before, pythons, silu = torch.get_rng_state(), random.getstate(), torch.nn.functional.silu
    for layer in (
        "SetsDefaultDtype",
        "DrawsRandomNumbers",
        "DrawsPythonsNumbers",
        "SeedsRandomNumbers",
        "PatchesTorch",
        "FlushesDenormals",
    ):
        probe(norm_probe_case(layer))
    assert torch.get_default_dtype() is torch.float32
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == pythons
    assert torch.nn.functional.silu is silu
    assert float(torch.tensor(1e-310, dtype=torch.float64)) != 0
