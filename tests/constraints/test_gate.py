"""The gate of constraints: what a miss says, and what becomes of sizes that are dynamic."""

from __future__ import annotations

import pytest
import torch
from constraint_calls import CPU, H100, Capture, called, checked, kernel

from fxkernels.constraints.gate import ConstraintResult, check_constraints
from fxkernels.kernels.binding import Binding
from fxkernels.kernels.stand_in import LayerState


def test_kernel_without_constraints_is_for_every_call() -> None:
    bound = Binding((), {}, lambda inputs: None, {}, LayerState(torch.nn.Module), False)
    assert check_constraints(kernel(), bound, (), CPU) == ConstraintResult()


def test_call_that_meets_everything_is_noted_with_what_was_demanded() -> None:
    found = checked(["dim(x, -1) % 8 == 0", "capability >= 80"], called(H100, x=torch.empty(4, 64)))
    assert (found.miss, found.guard, found.note) == (None, None, "dim(x, -1) % 8 == 0, capability >= 80")


@pytest.mark.parametrize(
    ("constraint", "code", "found", "change"),
    [
        ("dim(x, -1) % 8 == 0", "shape", "dim(x, -1) is 100", "with dim(x, -1) = 104"),
        ("dtype(x) in {float16, bfloat16}", "dtype", "dtype(x) is float32", "with x in float16"),
        ("dtype(x) == dtype(self.weight)", "dtype", "dtype(self.weight) is bfloat16", "with self.weight in float32"),
        ("ndim(x) == 3", "rank", "ndim(x) is 2", "with 3 dimensions in x"),
        ("contiguous(x)", "layout", "x has sizes [4, 100] and strides [1, 4]", "with x contiguous"),
        ("stride(x, -1) == 1", "layout", "stride(x, -1) is 4", "with x contiguous"),
        ("capability >= 90", "capability", "capability is not known", ""),
        ("torch >= '2.14'", "capability", "torch is 2.13", "with torch 2.14"),
        ("training", "no_mode", "training is False", "in training mode"),
        ("eps == 1e-05", "condition_false", "eps is 1e-06", "with eps = 1e-05"),
        ("none(bias)", "condition_false", "bias is a tensor of float32[100]", "without bias"),
        ("dim(y, 0) == 4", "signature", "there is no y", ""),
    ],
)
def test_miss_names_the_clause_what_was_found_and_the_smallest_change(constraint: str, code: str, found: str, change: str) -> None:
    x, weight = torch.empty(100, 4).t(), torch.empty(100, dtype=torch.bfloat16)
    miss = checked(constraint, called(x=x, bias=torch.empty(100), eps=1e-6, self_={"weight": weight})).miss
    assert miss is not None
    assert miss.code == code
    assert miss.data["clause"] == constraint
    assert found in miss.data["found"]
    assert miss.data["change"] == change
    assert str(miss.data["kernel"]) == "constrained:PairsRMSNorm"


def test_message_reads_as_a_sentence() -> None:
    miss = checked("dim(x, -1) % 8 == 0", called(x=torch.empty(4, 100))).miss
    assert miss is not None
    assert miss.message == (
        "constrained:PairsRMSNorm demands dim(x, -1) % 8 == 0, and dim(x, -1) is 100; it would match with dim(x, -1) = 104"
    )


def test_a_change_has_to_meet_all_other_constraints_too() -> None:
    miss = checked(
        ["dim(x, -1) % 8 == 0", "dim(x, -1) == dim(self.weight, 0)"], called(x=torch.empty(4, 100), self_={"weight": torch.empty(100)})
    )
    assert miss.miss is not None
    assert miss.miss.data["change"] == "with size 104 instead of 100 everywhere"
    alone = checked(["dim(x, -1) % 8 == 0", "dim(x, -1) == 100"], called(x=torch.empty(4, 100))).miss
    assert alone is not None
    assert alone.data["change"] == ""


def test_arguments_in_tuples_and_attributes_of_submodules_are_found() -> None:
    call = called(position_embeddings=(torch.empty(2, 64), None), self_={"proj.weight": torch.empty(8, 8), "eps": 1e-6})
    assert (
        checked(
            ["dim(position_embeddings[0], -1) == 64", "dim(self.proj.weight, 0) == 8", "self.eps < 1", "none(position_embeddings[1])"], call
        ).miss
        is None
    )


# --- dynamic sizes ------------------------------------------------------------------------------------------------------------------------


def test_dynamic_size_that_meets_it_by_now_gives_a_guard_that_guards_nothing_yet() -> None:
    capture = Capture()
    found = checked("dim(x, 0) % 4 == 0", called(x=capture.tensor(12, 8, dynamic=(0,))))
    assert found.miss is None
    assert found.note == "guarded: dim(x, 0) % 4 == 0"
    assert capture.guards == []
    assert found.guard is not None
    found.guard.enforce()
    assert len(capture.guards) == 1
    assert "Mod" in capture.guards[0]


def test_dynamic_size_that_fails_by_now_is_a_miss_whose_guard_lets_other_sizes_be_decided_anew() -> None:
    capture = Capture()
    found = checked("dim(x, 0) % 4 == 0", called(x=capture.tensor(10, 8, dynamic=(0,))))
    assert found.miss is not None
    assert (found.miss.code, found.miss.data["found"]) == ("shape", "dim(x, 0) is 10")
    assert found.guard is not None
    found.guard.enforce()
    assert "Ne(Mod" in capture.guards[0]


def test_with_miss_a_dynamic_size_is_a_miss_whatever_it_is_by_now() -> None:
    capture = Capture()
    for size in (10, 12):
        found = checked("dim(x, 0) % 4 == 0", called(x=capture.tensor(size, 8, dynamic=(0,))), "miss")
        assert found.miss is not None
        assert found.miss.code == "dynamic_shape"
        assert found.miss.message.endswith("demands dim(x, 0) % 4 == 0, and dim(x, 0) changes from call to call")
        assert found.guard is None
    assert capture.guards == []


def test_what_the_capture_knows_of_a_dynamic_size_needs_no_guard() -> None:
    capture = Capture()
    x = capture.tensor(12, 8, dynamic=(0,))
    assert x.shape[0] > 4
    assert checked("dim(x, 0) >= 3", called(x=x)).guard is None


def test_only_as_much_is_guarded_as_the_answer_rests_on() -> None:
    capture = Capture()
    found = checked("dim(x, 0) % 4 == 0 or dim(x, 0) == 10", called(x=capture.tensor(12, 8, dynamic=(0,))))
    assert found.guard is not None
    found.guard.enforce()
    assert len(capture.guards) == 1  # that 12 is not 10 does not matter


def test_size_known_only_when_it_runs_is_a_miss() -> None:
    capture = Capture()
    with capture.mode:
        x = torch.nonzero(torch.empty(4))
    found = checked("dim(x, 0) % 4 == 0", called(x=x))
    assert found.miss is not None
    assert (found.miss.code, found.guard) == ("dynamic_shape", None)
    assert "is known only when it runs" in found.miss.message


def test_dynamic_number_is_guarded_as_a_size_is() -> None:
    capture = Capture()
    length = capture.tensor(12, dynamic=(0,)).shape[0]
    found = checked("n <= 64", called(n=length, x=torch.empty(2)))
    assert found.guard is not None
    found.guard.enforce()
    assert len(capture.guards) == 1


@pytest.mark.parametrize(("value", "code"), [(0.5, None), (3.0, "condition_false")])
def test_dynamic_float_is_guarded_too(value: float, code: str | None) -> None:
    capture = Capture()
    found = checked("scale < 2", called(scale=capture.number(value), x=torch.empty(2)))
    assert (found.miss.code if found.miss is not None else None) == code
    assert found.guard is not None
    found.guard.enforce()
    assert len(capture.guards) == 1
