"""Sizes as formulas over the symbols of a call."""

from __future__ import annotations

import pytest
import torch

from fxkernels.kernels.lowering.layouts import Formula, Layout

SAMPLES = [[4, 6], [8, 9], [12, 18]]


@pytest.mark.parametrize(
    ("size", "formula"),
    [
        (lambda rows, columns: 7, Formula(7)),
        (lambda rows, columns: rows, Formula(1, (0,))),
        (lambda rows, columns: rows * columns, Formula(1, (0, 1))),
        (lambda rows, columns: 3 * rows, Formula(3, (0,))),
        (lambda rows, columns: rows + 1, Formula(1, (0,), 1)),
        (lambda rows, columns: -(-columns // 4), Formula(1, (1,), 3, 4)),
        (lambda rows, columns: columns // 4, Formula(1, (1,), 0, 4)),
    ],
    ids=["constant", "a size", "a product", "a multiple", "one more", "blocks", "whole blocks"],
)
def test_a_size_that_follows_from_the_inputs_has_a_formula(size, formula: Formula) -> None:
    found = Formula.through([size(*sample) for sample in SAMPLES], SAMPLES)
    assert found == formula
    assert found.at([20, 33]) == size(20, 33)


def test_a_size_that_follows_from_nothing_has_none() -> None:
    assert Formula.through([5, 3, 17], SAMPLES) is None


def test_a_layout_makes_tensors_of_other_sizes() -> None:
    tensors = [torch.empty(columns, rows).t() for rows, columns in SAMPLES]
    layout = Layout.through(tensors, SAMPLES)
    assert layout is not None
    made = layout.empty([5, 7])
    assert (tuple(made.shape), made.stride()) == ((5, 7), (1, 5))
    assert layout.fits(torch.empty(7, 5).t(), [5, 7])
    assert not layout.fits(torch.empty(5, 7), [5, 7])


def test_tensors_of_different_dtypes_have_no_layout() -> None:
    assert Layout.through([torch.empty(2), torch.empty(2, dtype=torch.int64)], [[1], [2]]) is None
