"""Calls that meet their constraints, calls that do not, and calls of which it is not known yet."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from constraint_calls import Capture, checked

from fxkernels.constraints import parse
from fxkernels.constraints.call_facts import CallFacts
from fxkernels.constraints.evaluate import Evaluation
from fxkernels.decide.gates import CODES
from fxkernels.passes.miss import Miss


class DynamicCache:
    """An argument of which nothing can be asked but whether it is None."""


CALL = CallFacts(
    {
        "x": torch.empty(2, 3, 100, dtype=torch.float16),
        "weight": torch.empty(100),
        "bias": None,
        "unsqueeze_dim": 2,
        "cache": DynamicCache(),
    },
    {"eps": 1e-6, "act": "silu", "weight": torch.empty(7), "proj.weight": torch.empty(64, 64)},
    training=True,
    capability=80,
    torch="2.13.0+cpu",
    triton="3.4.0",
)


def holds(text: str, call: CallFacts = CALL) -> bool | None:
    """Whether a constraint holds for a call; None if that is not known."""
    return Evaluation(call).holds(parse(text))


def miss(constraints: str | list[str], call: CallFacts = CALL) -> Miss:
    """The miss of a call that does not meet its constraints."""
    found = checked(constraints, call).miss
    assert found is not None
    return found


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
    found, (code, values) = miss(text), REFUTED[text]
    assert (found.code, found.data["clause"]) == (code, text)
    assert found.data["found"].startswith(values)
    assert found.code in CODES


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
    assert holds(text) is True


@pytest.mark.parametrize(
    "text", ["dim(bias, 0) == 1", "triton >= '3'", "dim(x, 9) == 1", "cache == 1", "unknown == 1", "dim(x, 0) % 0 == 0"]
)
def test_neither_a_clause_nor_its_opposite_is_met_by_what_a_call_does_not_have(text: str) -> None:
    call = dataclasses.replace(CALL, triton=None)
    assert (holds(text, call), holds(f"not {text}", call)) == (False, False)


def test_first_clause_that_fails_is_reported_of_several_constraints() -> None:
    found = miss(["contiguous(x) and (ndim(x) == 3 and dim(x, -1) % 8 == 0)", "capability >= 90"])
    assert (found.data["clause"], found.data["found"]) == ("dim(x, -1) % 8 == 0", "dim(x, -1) is 100")


def test_clause_is_refuted_even_after_one_that_depends() -> None:
    call = CallFacts({"x": Capture().tensor(12, 8, dynamic=(0,), dtype=torch.float16)})
    assert miss(["dim(x, 0) == 4", "dtype(x) == float32"], call).code == "dtype"


def test_unknown_name_is_told_with_the_nearest_word() -> None:
    assert "did you mean bfloat16?" in miss("dtype(x) == bfloat").message


# --- dynamic sizes -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def dynamic() -> CallFacts:
    """A batch of 2 to 16 sequences of a length of which nothing is known but that it is at least 2."""
    capture = Capture()
    batch, length = capture.size(12, 2, 16), capture.size(10)
    with capture.mode:
        x, y = torch.empty(batch, length, 64, dtype=torch.float16), torch.empty(batch, 8 * length, dtype=torch.float16)
    return CallFacts({"x": x, "y": y, "w": torch.empty(64), "n": length})


@pytest.mark.parametrize(
    "text",
    [
        "dim(x, -1) % 64 == 0",
        "dim(y, 1) % 8 == 0",
        "not dim(y, 1) % 8 == 4",
        "contiguous(x)",
        "dim(x, 0) == dim(y, 0)",
        "1 < dim(x, 0) < 17",
        "numel(x) % 64 == 0",
        "dim(y, 1) // 8 == dim(x, 1)",
        "n >= 2",
        "dim(x, 0) % 32 <= 16",
        "max(dim(x, 0), 100) == 100",
        "min(dim(x, 0), 100) == dim(x, 0) or dtype(x) == float16",
        "dim(x, 1) == 5 or dim(w, 0) == 64",
        "next_pow2(dim(w, 0) + 1) == 128",
    ],
)
def test_clause_that_holds_for_all_sizes_needs_no_guard(text: str, dynamic: CallFacts) -> None:
    assert holds(text, dynamic) is True
    assert checked(text, dynamic).guard is None


@pytest.mark.parametrize("text", ["dim(x, 0) == 1", "dim(x, 0) == 17", "dim(x, 0) * 2 > 32", "not contiguous(x)", "n < 2", "n == 'two'"])
def test_clause_that_holds_for_no_size_is_refuted_without_a_guard(text: str, dynamic: CallFacts) -> None:
    found = checked(text, dynamic)
    assert found.miss is not None
    assert (found.miss.data["clause"], found.guard) == (text, None)


def test_refuted_clause_shows_the_expression_of_a_dynamic_size(dynamic: CallFacts) -> None:
    length = dynamic.arguments["n"]
    assert miss("dim(y, 1) < 16", dynamic).data["found"] == f"dim(y, 1) is 8*{length}"


def test_what_a_guard_of_the_capture_says_of_a_size_proves_what_it_implies() -> None:
    capture = Capture()
    size = capture.size(32)
    assert size % 16 == 0
    call = CallFacts({"n": size})
    assert holds("n % 16 == 0", call) is True
    assert holds("n % 32 == 0", call) is None


def test_clauses_that_depend_are_named_with_the_sizes_that_they_read(dynamic: CallFacts) -> None:
    found = checked(["ndim(x) == 3 and dim(x, -2) % 8 == 0", "dim(x, 0) <= 8", "contiguous(x)"], dynamic, "miss").miss
    assert found is not None
    assert (found.code, found.data["clause"]) == ("dynamic_shape", "dim(x, -2) % 8 == 0 and dim(x, 0) <= 8")
    assert found.data["found"] == "dim(x, 1), dim(x, 0) changes from call to call"


@pytest.mark.parametrize(("batch", "length", "expected"), [(2, 16, True), (2, 15, False), (3, 15, True)])
def test_clause_is_answered_by_values_for_the_sizes(batch: int, length: int, expected: bool, dynamic: CallFacts) -> None:
    sizes = {dynamic.arguments["x"].shape[0].node.expr: batch, dynamic.arguments["n"].node.expr: length}
    assert holds("dim(x, 1) % 8 == 0 or dim(x, 0) == 3", dynamic.at(sizes)) is expected


def test_layout_of_a_dynamic_tensor_depends_on_its_sizes_and_strides() -> None:
    capture = Capture()
    length, row = capture.size(8), capture.size(10)
    with capture.mode:
        call = CallFacts({"x": torch.empty_strided((4, length), (row, 1))})
    found = checked("contiguous(x)", call)
    assert found.miss is not None
    assert found.miss.data["found"] == "x has sizes [4, 8] and strides [10, 1]"
    assert [holds("contiguous(x)", call.at({length.node.expr: 8, row.node.expr: stride})) for stride in (8, 9)] == [True, False]


@pytest.mark.parametrize("text", ["n % u == 0", "n // u * 0 == 0"])
def test_division_by_a_size_that_may_be_zero_depends_and_fails_for_zero(text: str) -> None:
    capture = Capture()
    unbacked = capture.environment.create_unbacked_symint()
    call = CallFacts({"n": capture.size(12), "u": unbacked})
    assert holds(text, call) is None
    values = {**call.hints, unbacked.node.expr: 0}
    assert [holds(text, call.at({**values, unbacked.node.expr: value})) for value in (0, 3)] == [False, True]


def test_dynamic_number_that_is_not_whole_depends() -> None:
    call = CallFacts({"scale": Capture().number(0.5)})
    assert holds("scale > 0", call) is None
    assert (holds("scale > 0", call.present), holds("scale > 1", call.present)) == (True, False)


def test_power_of_two_above_a_dynamic_size_is_guarded_between_two_powers() -> None:
    capture = Capture()
    call = CallFacts({"n": capture.size(12)})
    assert holds("next_pow2(n) == 16", call) is None
    found = checked("next_pow2(n) == 16", call)
    assert found.guard is not None
    found.guard.enforce()
    assert holds("8 < n <= 16", call) is True
