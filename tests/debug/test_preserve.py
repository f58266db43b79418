from __future__ import annotations

import random
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from fxkernels.debug.preserve import PreservedModel

Pair = namedtuple("Pair", "one two")


@dataclass(frozen=True, slots=True)
class Output:
    value: torch.Tensor
    count: int


def ones() -> torch.Tensor:
    return torch.ones(2)


@pytest.mark.parametrize(
    ("argument", "tensor_of"),
    [
        (ones(), lambda argument: argument),
        ((1, ones()), lambda argument: argument[1]),
        ([None, [ones()]], lambda argument: argument[1][0]),
        ({"a": (ones(),)}, lambda argument: argument["a"][0]),
        (Pair("x", ones()), lambda argument: argument.two),
        (OrderedDict(a=ones()), lambda argument: argument["a"]),
        ((Output(ones(), 3),), lambda argument: argument[0].value),
    ],
    ids=["tensor", "tuple", "list", "dict", "namedtuple", "ordered", "dataclass"],
)
def test_a_tensor_among_the_arguments_that_a_run_overwrites_is_put_back(argument: Any, tensor_of: Any) -> None:
    with PreservedModel(nn.Linear(2, 2), (argument,), {}).run() as ((given,), _):
        assert tensor_of(given) is tensor_of(argument)
        tensor_of(given).zero_()
    assert tensor_of(argument).tolist() == [1.0, 1.0]


def test_a_container_among_the_arguments_is_a_copy_in_each_run() -> None:
    cache: dict[str, Any] = {"seen": []}
    preserved = PreservedModel(nn.Linear(2, 2), (), {"cache": cache})
    for _ in range(2):
        with preserved.run() as (_, given):
            assert given["cache"] == {"seen": []}
            given["cache"]["seen"].append(1)
    assert cache == {"seen": []}


def test_weights_buffers_and_gradients_are_put_back_also_where_a_run_exchanges_or_overwrites_them() -> None:
    model = nn.BatchNorm1d(2)
    weight, mean, gradient = model.weight, model.running_mean, torch.tensor([3.0, 4.0])
    assert mean is not None
    weight.grad = gradient
    with PreservedModel(model, (), {}).run():
        assert weight.grad is None
        model(torch.randn(4, 2)).sum().backward()
        weight.data.zero_()
        model.weight = nn.Parameter(torch.zeros(2))
        del model.running_mean
    assert model.weight is weight
    assert model.running_mean is mean
    assert (weight.tolist(), mean.tolist(), weight.grad) == ([1.0, 1.0], [0.0, 0.0], gradient)


def test_every_run_gets_the_same_random_numbers_and_the_generators_go_on_as_if_none_had_been() -> None:
    preserved = PreservedModel(nn.Linear(2, 2), (), {})
    torch.manual_seed(0)
    random.seed(0)
    expected = torch.rand(1), random.random()
    torch.manual_seed(0)
    random.seed(0)
    for _ in range(2):
        with preserved.run():
            assert (torch.rand(1), random.random()) == expected
    assert (torch.rand(1), random.random()) == expected
