from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch

from fxkernels.capture.tensor_tree import tensors_in, with_tensors

Pair = namedtuple("Pair", "one two")


@dataclass(frozen=True)
class Output:
    value: torch.Tensor
    count: int


one, two = torch.tensor(1.0), torch.tensor(2.0)


@pytest.mark.parametrize(
    "value",
    [
        (one, two),
        [one, [two]],
        {"a": one, "b": (two,)},
        Pair(one, two),
        OrderedDict(a=one, b=two),
        (Output(one, 3), two),
        (one, None, "x", 4, two),
    ],
    ids=["tuple", "list", "dict", "namedtuple", "ordered", "dataclass", "others"],
)
def test_tensors_come_out_in_order_and_others_go_back_in(value):
    assert tensors_in(value) == [one, two]
    replaced = with_tensors(value, [two, one])
    assert type(replaced) is type(value)
    assert tensors_in(replaced) == [two, one]
    assert tensors_in(value) == [one, two]


def test_objects_of_other_kinds_stay_the_same_objects():
    cache = object()
    assert with_tensors((one, cache), [two])[1] is cache


def test_a_transformers_output_keeps_its_class_and_both_of_its_views():
    outputs = pytest.importorskip("transformers.modeling_outputs")
    replaced = with_tensors(outputs.BaseModelOutput(last_hidden_state=one), [two])
    assert type(replaced) is outputs.BaseModelOutput
    assert replaced.last_hidden_state is replaced["last_hidden_state"] is two
