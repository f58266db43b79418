"""Example values of nodes: which tensors are in them, and which memory they share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graphs import GraphBuilder
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

from fxkernels.passes.example_values import example, has_plain_storage, storage_of, storages_of, tensors_in


def test_example_is_the_fake_value_of_the_node_and_none_without_one() -> None:
    build = GraphBuilder()
    product = build(torch.matmul, build.tensor("x", 4, 8), build.tensor("y", 8, 2))
    assert example(product).shape == (4, 2)
    (output,) = (node for node in build.finish(product).nodes if node.op == "output")
    assert example(output) is None


one, two = torch.ones(1), torch.zeros(2)


@pytest.mark.parametrize(
    ("value", "tensors"),
    [
        (one, [one]),
        ((one, two), [one, two]),
        ([one, (3, [two])], [one, two]),
        ({"a": two, "b": {"c": one}}, [two, one]),
        ((one, one), [one, one]),
        (None, []),
        (7, []),
        ("text", []),
    ],
)
def test_tensors_in_gives_the_tensors_in_order(value: Any, tensors: list[torch.Tensor]) -> None:
    found = list(tensors_in(value))
    assert list(map(id, found)) == list(map(id, tensors))


def test_a_view_has_the_storage_of_its_base_and_so_have_two_views() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4, 8)
    transposed, first = build.method("t", x), build.method("select", x, 0, 0)
    computed = build(torch.neg, x)
    assert storage_of(example(transposed)) == storage_of(example(x)) == storage_of(example(first))
    assert storage_of(example(computed)) != storage_of(example(x))


def test_an_operation_in_place_returns_the_storage_that_it_writes() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4)
    assert storage_of(example(build.method("add_", x, 1))) == storage_of(example(x))


def test_storages_of_a_node_are_those_of_all_its_outputs() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4, 8)
    halves, values = build.method("chunk", x, 2), build(torch.max, x, -1)
    assert list(storages_of(halves)) == [storage_of(example(x))] * 2
    assert len(set(storages_of(values))) == 2
    assert storage_of(example(x)) not in storages_of(values)


def test_a_sparse_tensor_or_a_wrapper_has_no_plain_storage() -> None:
    with FakeTensorMode():
        assert has_plain_storage(torch.empty(2, 3).t())
        assert not has_plain_storage(torch.empty(2, 2).to_sparse())
    assert not has_plain_storage(TwoTensor(torch.ones(2), torch.ones(2)))


def test_storages_of_a_node_leave_out_tensors_without_plain_storage() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 2, 2)
    sparse = build.method("to_sparse", x)
    assert list(storages_of(sparse)) == []
