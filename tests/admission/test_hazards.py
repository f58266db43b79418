"""What kernels in the wild get wrong without an error is found, and what the kernel gets right is not held against it."""

from __future__ import annotations

import pytest
import torch
from hazard_requests import norm_request, rotary_request

from fxkernels.admission.probe import probe

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)

WRONG_NORMS = [
    ("H1OverwritesGradient", "gradient", "incoming gradient"),
    ("H2OverwritesSaved", "gradient", "second backward"),
    ("H5Detached", "gradient", "detached"),
    ("H5Identity", "gradient", "gradient of input 0"),
    ("H7RepacksParameters", "mutates_input", "self.weight"),
    ("H9MultipliesBySigmoid", "numerics", "output 0"),
    ("H9ZeroCentred", "numerics", "output 0"),
    ("StridedGradient", "gradient", "strided incoming gradient"),
    ("GlobalState", "gradient", "gradient of"),
    ("NoWeightGradient", "gradient", "no gradient for self.weight"),
    ("CachesByShape", "numerics", "output 0"),
    ("CachesByAddress", "numerics", "output 0"),
    ("ReusesBuffer", "numerics", "a later call changes output 0"),
    ("RightOnce", "numerics", "output 0"),
    ("DrawsRandomNumbers", "random", "random numbers"),
    ("SetsDefaultDtype", "own_state", "default dtype"),
    ("SetsThreads", "own_state", "number of threads"),
    ("WrongForLarge", "numerics", "large values"),
    ("WritesSelf", "own_state", "self.last"),
    ("WrongInOnePlace", "numerics", "output 0"),
    ("Raises", "crash", "no such shape"),
    ("AllocatesTooMuch", "crash", "allocate"),
]


@BOTH
@pytest.mark.parametrize(("layer", "code", "words"), WRONG_NORMS, ids=[layer for layer, _, _ in WRONG_NORMS])
def test_a_wrong_norm_is_refused_with_what_it_got_wrong(layer: str, code: str, words: str, dtype: torch.dtype) -> None:
    # A kernel that caches has no gradient the second time, which is seen first; without one its values are.
    verdict = probe(norm_request(layer, dtype, gradient=not layer.startswith("Caches")))
    assert (verdict.result, verdict.code) == ("refused", code)
    assert words in verdict.message


def test_a_weight_gradient_that_was_summed_in_bfloat16_is_refused_at_8192_rows() -> None:
    verdict = probe(norm_request("H8SumsInHalf", torch.bfloat16, 8192, 32))
    assert (verdict.code, "gradient of self.weight" in verdict.message) == ("gradient", True)


def test_strides_that_are_not_those_of_the_layer_are_refused() -> None:
    transposed = torch.empty(2, 64, 16).mT
    verdict = probe(norm_request("H6ReadsDense", x=transposed))
    assert verdict.code in ("numerics", "output_metadata")


def test_the_epsilon_of_the_layer_counts() -> None:
    assert probe(norm_request("IgnoresEpsilon", torch.bfloat16)).code in ("numerics", "gradient")


def test_another_output_dtype_is_refused() -> None:
    verdict = probe(norm_request("H10Float32", torch.bfloat16))
    assert verdict.code == "output_metadata"
    assert "float32" in verdict.message


def test_a_kernel_that_overwrites_transposed_queries_and_keys_gets_copies() -> None:
    verdict = probe(rotary_request("H3OverwritesQueries"))
    assert (verdict.result, verdict.cloned) == ("admitted", (0, 1))
    assert verdict.evidence["notes"] == ["it overwrites input 0, input 1, and gets copies"]


def test_an_ignored_argument_is_refused_where_the_call_passes_another_value() -> None:
    assert probe(rotary_request("H4IgnoresArgument")).result == "admitted"
    assert probe(rotary_request("H4IgnoresArgument", unsqueeze_dim=2)).result == "refused"


def test_another_rotation_under_the_same_name_is_refused() -> None:
    assert probe(rotary_request("H9Interleaved")).code == "numerics"


def test_a_detached_output_is_right_outside_of_training_with_the_references_gradient() -> None:
    verdict = probe(norm_request("H5Detached", training=False))
    assert (verdict.result, verdict.detached) == ("admitted", True)


def test_a_kernel_is_not_asked_for_a_gradient_that_nobody_wants() -> None:
    assert probe(norm_request("H5Identity", gradient=False)).result == "admitted"


@BOTH
@pytest.mark.parametrize("layer", ["CorrectNorm"])
def test_the_same_norm_without_a_bug_is_admitted(layer: str, dtype: torch.dtype) -> None:
    verdict = probe(norm_request(layer, dtype))
    assert verdict.result == "admitted"
    assert set(verdict.evidence["errors"]) == {"output 0", "gradient of input 0", "gradient of self.weight"}


def test_the_same_rotary_embedding_without_a_bug_is_admitted() -> None:
    assert probe(rotary_request("CorrectRotary", gradient=True)).result == "admitted"


def test_a_probe_leaves_random_numbers_and_settings_as_they_were() -> None:
    before = torch.get_rng_state()
    probe(norm_request("SetsDefaultDtype"))
    probe(norm_request("DrawsRandomNumbers"))
    assert torch.get_default_dtype() is torch.float32
    assert torch.equal(torch.get_rng_state(), before)
