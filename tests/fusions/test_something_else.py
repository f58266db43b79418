"""What looks like a shipped fusion and is something else: it is not found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captured import captured
from torch import Tensor
from torch.nn import functional as F

from fxkernels.fusion import patterns_of
from fxkernels.fusions import current_fusions
from fxkernels.passes.matching import Matcher

ROWS = torch.randn(2, 6, 32)
HEADS = torch.randn(2, 4, 6, 8)


def over_another_dimension(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.matmul(F.softmax(torch.matmul(query, key.transpose(2, 3)) * 0.3, dim=-2), value)


def capped_twice_otherwise(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = torch.tanh(torch.matmul(query, key.transpose(2, 3)) * 0.3 / 2.0) * 3.0
    return torch.matmul(F.softmax(scores, dim=-1), value)


def with_the_sink_kept(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = torch.matmul(query, key.transpose(2, 3)) * 0.3
    scores = torch.cat([scores, key[0, :, 0, 0].reshape(1, -1, 1, 1).expand(2, -1, 6, 1)], dim=-1)
    return torch.matmul(F.softmax(scores, dim=-1, dtype=torch.float32), F.pad(value, (0, 0, 0, 1)))


def gated_by_a_sigmoid(gate: Tensor, up: Tensor) -> Tensor:
    return torch.sigmoid(gate) * up


def summed_with_the_activation(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) + up


def gated_by_a_gelu_of_the_sum(gate: Tensor, up: Tensor) -> Tensor:
    return F.gelu(gate * up)


def of_the_mean_and_not_of_its_square(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.abs().mean(-1, keepdim=True) + 1e-6) * weight


def over_all_rows(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6) * weight


def a_norm_of_something_else_than_the_sum(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return F.rms_norm(x, (32,), weight), x + y


def a_layer_norm_of_the_difference(x: Tensor, y: Tensor) -> Tensor:
    return F.layer_norm(x - y, (32,))


def scaled_from_two(x: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, (32,)) * (2 + scale) + scale


def sorted_otherwise(x: Tensor, indices: Tensor) -> Tensor:
    order = torch.sort(indices.reshape(-1))[1]
    return x[order // 2][order].view(3, 2, 32).sum(dim=1)


def not_shifted(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight).view(-1, 50), labels.view(-1))


CASES: list[tuple[str, Callable[..., Any], tuple[Tensor, ...]]] = [
    ("attention", over_another_dimension, (HEADS, HEADS, HEADS)),
    ("attention", capped_twice_otherwise, (HEADS, HEADS, HEADS)),
    ("attention", with_the_sink_kept, (HEADS, HEADS, HEADS)),
    ("SwiGLU", gated_by_a_sigmoid, (ROWS, ROWS)),
    ("SwiGLU", summed_with_the_activation, (ROWS, ROWS)),
    ("GeGLU", gated_by_a_gelu_of_the_sum, (ROWS, ROWS)),
    ("rms_norm", of_the_mean_and_not_of_its_square, (ROWS, ROWS[0, 0])),
    ("rms_norm", over_all_rows, (ROWS, ROWS[0, 0])),
    ("add_rms_norm", a_norm_of_something_else_than_the_sum, (ROWS, ROWS, ROWS[0, 0])),
    ("add_layer_norm", a_layer_norm_of_the_difference, (ROWS, ROWS)),
    ("norm_modulate", scaled_from_two, (ROWS, ROWS[:, :1])),
    ("experts", sorted_otherwise, (ROWS[0], torch.randint(3, (3, 2)))),
    ("linear_cross_entropy", not_shifted, (ROWS, torch.randn(50, 32), torch.randint(50, (2, 6)))),
]


@pytest.mark.parametrize(("layer_name", "function", "inputs"), CASES, ids=[f"{name}, {function.__name__}" for name, function, _ in CASES])
def test_it_is_not_found(layer_name: str, function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> None:
    graph = captured(function, *inputs).graph
    assert Matcher(graph, ()).find(patterns_of(current_fusions()[layer_name]))[0] == ()
