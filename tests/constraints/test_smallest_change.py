"""The smallest change with which a call would have been taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from constraint_calls import Capture, checked

from fxkernels.constraints.call_facts import CallFacts

CALL = CallFacts(
    {
        "x": torch.empty(4, 100),
        "cos": (torch.empty(4, 64), None),
        "mask": torch.empty(4, 4, requires_grad=True),
        "dropout": 0.1,
        "act": "silu",
        "causal": False,
    },
    {"weight": torch.empty(100, dtype=torch.bfloat16), "proj.weight": torch.empty(64, 100), "bias": None},
    training=False,
    capability=80,
    torch="2.13",
)


def change(*constraints: str, call: CallFacts = CALL) -> Any:
    miss = checked(list(constraints), call).miss
    assert miss is not None
    return miss.data["change"]


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        ("dim(x, -1) % 8 == 0", "with dim(x, -1) = 104"),
        ("dim(x, -1) == 128", "with dim(x, -1) = 128"),
        ("dim(x, -1) < 100", "with dim(x, -1) = 99"),
        ("dim(x, -1) == next_pow2(dim(x, -1))", "with dim(x, -1) = 128"),
        ("numel(x) % 128 == 0", "with dim(x, -1) = 96"),
        ("dim(cos[0], -1) == dim(x, -1)", "with dim(cos[0], -1) = 100"),
        ("dtype(x) == dtype(self.weight)", "with self.weight in float32"),
        ("itemsize(x) == 2", "with x in bfloat16"),
        ("ndim(x) == 3", "with 3 dimensions in x"),
        ("not contiguous(x) or dim(x, 0) == 1", "with dim(x, 0) = 1"),
        ("not none(self.bias)", "with self.bias given"),
        ("none(mask)", "without mask"),
        ("not requires_grad(mask)", "without a gradient for mask"),
        ("dropout == 0", "with dropout = 0"),
        ("act in {'gelu', 'relu'}", "with act = 'gelu'"),
        ("causal", "with causal = True"),
        ("training", "in training mode"),
        ("capability >= 90", "on capability 90"),
        ("capability > 89", "on capability 90"),
        ("device(x) == 'cuda'", "with x on cuda"),
        ("implies(not training, dim(x, 0) % 8 == 0)", "in training mode"),
        ("dtype(self.proj.weight) in {float8_e4m3fn, int8}", "with self.proj.weight in float8_e4m3fn"),
    ],
)
def test_one_thing_is_changed(constraint: str, expected: str) -> None:
    assert change(constraint) == expected


def test_layout_is_changed_where_it_is_what_fails() -> None:
    call = CallFacts({"x": torch.empty(100, 4).t()})
    assert change("stride(x, -1) == 1", call=call) == "with x contiguous"
    assert change("contiguous(x)", call=call) == "with x contiguous"


def test_a_size_that_others_have_too_is_changed_everywhere() -> None:
    assert change("dim(x, -1) % 8 == 0", "dim(x, -1) == dim(self.weight, 0)") == "with size 104 instead of 100 everywhere"


@pytest.mark.parametrize(
    "constraint", ["dim(y, 0) == 4", "dim(x, -1) == dim(x, -1) + 1", "dim(x, 0) == 3 and dim(x, 1) == 5", "none(x) and not none(x)"]
)
def test_nothing_is_said_where_no_single_change_helps(constraint: str) -> None:
    assert change(constraint) == ""


def test_dynamic_sizes_are_left_alone() -> None:
    assert change("dim(x, 0) < 1", call=CallFacts({"x": Capture().tensor(12, 8, dynamic=(0,))})) == ""


def test_a_dynamic_size_that_fails_by_now_is_changed_as_one_of_a_static_call() -> None:
    assert change("dim(x, 0) % 8 == 0", call=CallFacts({"x": Capture().tensor(12, 8, dynamic=(0,))})) == "with dim(x, 0) = 16"


def test_what_cannot_be_asked_is_no_obstacle() -> None:
    assert change("dim(cache, 0) == 4", call=CallFacts({"cache": object()})) == ""
