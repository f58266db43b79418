"""Random tensors like those of a call: what is shared, laid out and allowed there is so in a sample."""

from __future__ import annotations

import pytest
import torch
from constraint_calls import Capture

from fxkernels.kernels.samples import TINY, Sample, hints_of, random_like, specs_of


def test_inputs_have_the_dtypes_sizes_and_strides_of_the_call_and_none_of_its_memory() -> None:
    given = [torch.ones(3, 4).t(), torch.ones(2, 1, 5, dtype=torch.bfloat16).expand(2, 4, 5), 7]
    x, y, number = Sample.of(specs_of(given, {})).fill().views()
    assert (x.shape, x.stride(), y.dtype, y.stride(), number) == ((4, 3), (1, 4), torch.bfloat16, (5, 0, 1), 7)
    assert x.data_ptr() != given[0].data_ptr()  # type: ignore[attr-defined]
    assert not bool((x == 1).all())


def test_views_of_one_storage_are_views_of_one_storage() -> None:
    q, k, _ = torch.ones(2, 24).chunk(3, -1)
    ours, theirs = Sample.of(specs_of([q, k], {})).fill().views()
    assert ours.untyped_storage().data_ptr() == theirs.untyped_storage().data_ptr()
    ours.zero_()
    assert bool(theirs.any())


def test_another_seed_gives_other_values_in_the_same_memory() -> None:
    sample = Sample.of(specs_of([torch.empty(64)], {})).fill(1)
    (x,) = sample.views()
    before = x.clone()
    sample.fill(2)
    assert not torch.equal(x, before)
    sample.fill(1)
    assert torch.equal(x, before)


def test_whole_numbers_are_zero_and_booleans_true_unless_it_is_known_how_large_they_may_be() -> None:
    specs = specs_of([torch.ones(50, dtype=torch.int64), torch.zeros(50, dtype=torch.bool)], {})
    ids, mask = Sample.of(specs).fill().views()
    assert not bool(ids.any())
    assert bool(mask.all())
    ids, mask = Sample.of(specs).fill(highs={0: 11}).views()
    assert 1 <= int(ids.max()) <= 10
    assert not bool(mask.all())


def test_a_style_is_for_arguments_and_the_layers_own_tensors_keep_their_size() -> None:
    x, weight = Sample.of(specs_of([torch.empty(1000), torch.empty(1000)], {}, frozenset({1}))).fill(0, TINY).views()
    assert float(x.std()) < 0.01
    assert float(weight.std()) > 0.5


def test_a_gradient_is_wanted_where_the_call_wants_one() -> None:
    specs = specs_of([torch.empty(3, requires_grad=True), torch.empty(3)], {})
    assert [x.requires_grad for x in Sample.of(specs).fill().views(gradient=True)] == [True, False]
    assert [x.requires_grad for x in Sample.of(specs).fill().views()] == [False, False]


def test_dynamic_sizes_are_those_of_a_choice() -> None:
    capture = Capture()
    x = capture.tensor(5, 8, dynamic=(0,))
    hints = hints_of([x])
    assert hints is not None
    (symbol,) = hints
    assert hints[symbol] == 5
    (spec,) = specs_of([x], {symbol: 12})
    assert (spec.sizes, spec.strides) == ((12, 8), (8, 1))


@pytest.mark.parametrize(
    "like", [torch.empty(4, 3), torch.empty(3, 4).t(), torch.empty(3, 1).expand(3, 4)], ids=["dense", "strided", "expanded"]
)
def test_random_tensor_has_the_strides_of_a_tensor_whose_elements_share_no_memory(like: torch.Tensor) -> None:
    found = random_like(like, seed=3)
    assert found.shape == like.shape
    if 0 not in like.stride():
        assert found.stride() == like.stride()
    assert torch.equal(found, random_like(like, seed=3))
    assert float(found.abs().max()) > 0
