"""Calls that meet their constraints, calls that do not, and calls of which it is not known yet."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
import sympy
import torch

from fxkernels.passes.constraints import ConstraintError, Depends, Facts, Opaque, Proven, Refuted, TensorFacts, check, parse
from fxkernels.passes.miss import CODES

BATCH = sympy.Symbol("s0", integer=True, positive=True)
LENGTH = sympy.Symbol("s1", integer=True, positive=True)


def tensor(*shape: Any, dtype: torch.dtype = torch.float16, **options: Any) -> TensorFacts:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return TensorFacts(dtype, shape, tuple(options.pop("stride", strides)), **options)


CALL = Facts(
    {"x": tensor(2, 3, 100), "weight": tensor(100, dtype=torch.float32), "bias": None, "unsqueeze_dim": 2, "cache": Opaque("DynamicCache")},
    {"eps": 1e-6, "act": "silu", "weight": tensor(7), "proj.weight": tensor(64, 64)},
    training=True,
    capability=80,
    torch="2.13.0+cpu",
    triton="3.4.0",
)

REFUTED = {
    "dim(x, -1) % 8 == 0": ("shape", "dim(x, -1) is 100"),
    "dim(x, 3) == 1": ("rank", "x has 3 dimensions"),
    "ndim(x) == 2": ("rank", "ndim(x) is 3"),
    "numel(x) < 100": ("shape", "numel(x) is 600"),
    "next_pow2(dim(x, -1)) <= 64": ("shape", "dim(x, -1) is 100"),
    "2 <= dim(x, 2) <= 4": ("shape", "dim(x, 2) is 100"),
    "stride(x, -1) == 2": ("layout", "stride(x, -1) is 1"),
    "not contiguous(x)": ("layout", "x has sizes [2, 3, 100] and strides [300, 100, 1]"),
    "dtype(x) in {bfloat16, float32}": ("dtype", "dtype(x) is float16"),
    "dtype(x) == dtype(weight)": ("dtype", "dtype(x) is float16, dtype(weight) is float32"),
    "device(x) == 'cuda'": ("no_device", "device(x) is 'cpu'"),
    "unsqueeze_dim == 1": ("condition_false", "unsqueeze_dim is 2"),
    "self.act in {'gelu', None}": ("condition_false", "self.act is 'silu'"),
    "not none(bias)": ("condition_false", "bias is None"),
    "none(cache)": ("condition_false", "cache is a DynamicCache"),
    "requires_grad(x)": ("condition_false", "requires_grad(x) is False"),
    "dim(bias, 0) == 100": ("condition_false", "bias is None"),
    "dim(cache, 0) == 1": ("condition_false", "cache is a DynamicCache, not a tensor"),
    "x == 1": ("condition_false", "x is a tensor of float16[2, 3, 100]"),
    "self.act > 1": ("condition_false", "self.act is 'silu'"),
    "self.beta == 1": ("missing_attribute", "the layer has no beta, only: eps, act, weight, proj.weight"),
    "dim(y, 0) == 1": ("signature", "there is no y; the call's arguments are x, weight, bias, unsqueeze_dim, cache"),
    "capability >= 90": ("capability", "capability is 80"),
    "triton < '3.4'": ("capability", "triton is 3.4.0"),
    "torch >= '2.14'": ("capability", "torch is 2.13.0+cpu"),
    "not training": ("no_mode", "training is True"),
    "dim(x, 0) % (dim(x, 1) - 3) == 0": ("shape", "dim(x, 0) is 2, dim(x, 1) is 3"),
    "implies(training, dtype(x) == float32)": ("dtype", "training is True, dtype(x) is float16"),
    "False": ("condition_false", "it never holds"),
}


@pytest.mark.parametrize("text", REFUTED)
def test_refuted_clause_names_its_values_and_has_a_code(text: str) -> None:
    answer = check([text], CALL)
    assert isinstance(answer, Refuted)
    code, values = REFUTED[text]
    assert (answer.code, answer.values.startswith(values)) == (code, True), answer
    assert answer.miss.code in CODES
    assert answer.miss.message.startswith(f"{text}: {values}")


@pytest.mark.parametrize(
    "text",
    [
        "dim(x, -1) == 100 and dim(x, 0) == 2",
        "contiguous(x)",
        "none(bias) or dim(bias, 0) == 100",
        "dim(bias, 0) == 100 or none(bias)",
        "implies(not none(bias), dim(bias, 0) == 100)",
        "implies(dim(x, 7) == 1, False)" + " or training",
        "dtype(weight) == float32",
        "dim(self.weight, 0) == 7",
        "dim(self.proj.weight, 0) == 64",
        "eps < 1",
        "'3.3' <= triton <= '3.4'",
        "triton == '3.4'",
        "torch >= '2.11'",
        "not self.act == 'gelu'",
        "itemsize(x) * dim(x, -1) % 8 == 0",
    ],
)
def test_clause_that_holds_is_proven(text: str) -> None:
    assert check([text], CALL) == Proven()


@pytest.mark.parametrize(
    "text", ["dim(bias, 0) == 1", "triton >= '3'", "dim(x, 9) == 1", "cache == 1", "unknown == 1", "dim(x, 0) % 0 == 0"]
)
def test_neither_a_clause_nor_its_opposite_is_met_by_what_a_call_does_not_have(text: str) -> None:
    call = dataclasses.replace(CALL, triton=None)
    assert isinstance(check([text], call), Refuted)
    assert isinstance(check([f"not {text}"], call), Refuted)


def test_first_clause_that_fails_is_reported_of_several_constraints() -> None:
    answer = check(["contiguous(x) and (ndim(x) == 3 and dim(x, -1) % 8 == 0)", "capability >= 90"], CALL)
    assert isinstance(answer, Refuted)
    assert str(answer) == "dim(x, -1) % 8 == 0: dim(x, -1) is 100"


def test_clause_is_refuted_even_after_one_that_depends() -> None:
    answer = check(["dim(x, 0) == 4", "dtype(x) == float32"], Facts({"x": tensor(BATCH, 8)}))
    assert isinstance(answer, Refuted)
    assert answer.code == "dtype"


def test_unknown_name_is_told_with_the_nearest_word() -> None:
    assert "did you mean bfloat16?" in str(check(["dtype(x) == bfloat"], CALL))


def test_text_that_is_no_constraint_is_an_error_and_no_answer() -> None:
    with pytest.raises(ConstraintError):
        check(["dim(x, 0) ="], CALL)


def test_no_constraints_are_met() -> None:
    assert check([], CALL) == Proven()


# --- dynamic sizes -------------------------------------------------------------------------------------------------------------------

DYNAMIC = Facts(
    {"x": tensor(BATCH, LENGTH, 64), "y": tensor(BATCH, 8 * LENGTH), "w": tensor(64), "n": LENGTH},
    ranges={BATCH: (2, 16), LENGTH: (2, None)},
)


@pytest.mark.parametrize(
    "text",
    [
        "dim(x, -1) % 64 == 0",
        "dim(y, 1) % 8 == 0",
        "not dim(y, 1) % 8 == 4",
        "contiguous(x)",
        "dim(x, 0) == dim(y, 0)",
        "next_pow2(dim(x, 0)) <= 16",
        "1 < dim(x, 0) < 17",
        "numel(x) % 64 == 0",
        "dim(y, 1) // 8 == dim(x, 1)",
        "dim(y, 1) // dim(x, 1) == 8",
        "n >= 2",
        "dim(x, 0) % 32 <= 16",
        "min(dim(x, 0), 100) == dim(x, 0) or dtype(x) == float16",
        "dim(x, 1) == 5 or dim(w, 0) == 64",
    ],
)
def test_clause_that_holds_for_all_sizes_is_proven(text: str) -> None:
    assert check([text], DYNAMIC) == Proven()


@pytest.mark.parametrize("text", ["dim(x, 0) == 1", "dim(y, 1) == 12", "dim(x, 0) * 2 == 7", "not contiguous(x)", "n < 2", "n == 'two'"])
def test_clause_that_holds_for_no_size_is_refuted(text: str) -> None:
    answer = check([text], DYNAMIC)
    assert isinstance(answer, Refuted)
    assert answer.clause == parse(text)


def test_refuted_clause_shows_the_expression_of_a_dynamic_size() -> None:
    assert str(check(["dim(y, 1) == 12"], DYNAMIC)) == "dim(y, 1) == 12: dim(y, 1) is 8*s1"


def test_known_divisor_of_a_size_proves_what_it_implies() -> None:
    call = dataclasses.replace(DYNAMIC, divisors={LENGTH: 16})
    assert check(["dim(x, 1) % 8 == 0", "dim(x, 1) >= 16", "(dim(x, 1) + 8) % 16 == 8"], call) == Proven()
    assert isinstance(check(["dim(x, 1) % 32 == 0"], call), Depends)


def test_residual_is_what_is_left_of_the_clauses() -> None:
    answer = check(["ndim(x) == 3 and dim(x, -2) % 8 == 0", "dtype(x) == float32 or dim(x, 0) <= 8", "contiguous(x)"], DYNAMIC)
    assert isinstance(answer, Depends)
    assert str(answer.residual) == "dim(x, -2) % 8 == 0 and dim(x, 0) <= 8"
    assert [str(read) for read in answer.reads] == ["dim(x, 1)", "dim(x, 0)"]
    assert answer.miss.code == "dynamic_shape"
    assert answer.miss.message == f"{answer.residual} depends on sizes that change: dim(x, 1) is s1, dim(x, 0) is s0"


def test_residual_is_answered_by_the_sizes_of_a_call() -> None:
    answer = check(["dim(x, 1) % 8 == 0 or dim(x, 0) == 3"], DYNAMIC)
    assert isinstance(answer, Depends)
    assert [answer.holds(sizes) for sizes in [(16, 2), (15, 2), (15, 3), (16, 2)]] == [True, False, True, True]
    assert answer.holds_at({BATCH: 2, LENGTH: 15}) is False


def test_residual_of_a_layout_reads_sizes_and_strides() -> None:
    facts = Facts({"x": tensor(4, LENGTH, stride=(BATCH, 1))})
    answer = check(["contiguous(x)"], facts)
    assert isinstance(answer, Depends)
    assert list(map(str, answer.reads)) == ["dim(x, 1)", "stride(x, 0)"]
    assert answer.holds((8, 8))
    assert not answer.holds((8, 9))


def test_division_by_a_size_that_may_be_zero_depends_and_fails_for_zero() -> None:
    zero = sympy.Symbol("u0", integer=True, nonnegative=True)
    for text in ("dim(x, 0) % dim(y, 0) == 0", "dim(x, 0) // dim(y, 0) * 0 == 0"):
        answer = check([text], Facts({"x": tensor(zero), "y": tensor(zero)}))
        assert isinstance(answer, Depends)
        assert answer.holds_at({zero: 3})
        assert not answer.holds_at({zero: 0})


def test_dynamic_number_that_is_not_whole_depends() -> None:
    scale = sympy.Symbol("f0", real=True)
    answer = check(["scale > 0"], Facts({"scale": scale}))
    assert isinstance(answer, Depends)
    assert answer.holds((0.5,))
    assert not answer.holds((-0.5,))


def test_too_few_values_for_the_residual_are_an_error() -> None:
    answer = check(["dim(x, 0) == dim(y, 1)"], DYNAMIC)
    assert isinstance(answer, Depends)
    with pytest.raises(ValueError, match="shorter"):
        answer.holds((3,))


def test_answer_survives_pickling_and_copying() -> None:
    answer = check(["dim(x, 1) % 8 == 0"], dataclasses.replace(DYNAMIC, divisors={LENGTH: 2}))
    assert isinstance(answer, Depends)
    for other in (pickle.loads(pickle.dumps(answer)), copy.deepcopy(answer)):
        assert other == answer
        assert other.holds((16,))
        assert not other.holds((18,))
