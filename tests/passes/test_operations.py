"""The canonical form of an operation: spellings of one thing are equal, and different things are not."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from captured import captured
from torch import Tensor
from torch.nn import functional as F

from fxkernels.passes.operations import Operation, operation_of


def last(function: Callable[[Tensor, Tensor], Tensor]) -> tuple[str, dict[str, object]]:
    """The canonical form of the last operation, nodes by their names."""
    graph = captured(function, torch.ones(2, 3, 4), torch.ones(2, 3, 4)).graph
    node = [node for node in graph.nodes if node.op in ("call_function", "call_method")][-1]
    found: Operation = operation_of(node)
    return found.name, {name: told(value) for name, value in found.arguments.items()}


def told(value: object) -> object:
    """Nodes by their names; lists and tuples of sizes are one thing to torch."""
    return tuple(map(told, value)) if isinstance(value, tuple | list) else getattr(value, "name", value)


@pytest.mark.parametrize(
    "spellings",
    [
        [
            lambda x, y: x + y,
            lambda x, y: torch.add(x, y),
            lambda x, y: x.add(y),
            lambda x, y: torch.add(x, other=y, alpha=1),
            lambda x, y: x.add_(y),
        ],
        [lambda x, y: x * y, lambda x, y: torch.multiply(x, y), lambda x, y: torch.mul(input=x, other=y)],
        [lambda x, y: x / y, lambda x, y: torch.div(x, y), lambda x, y: x.true_divide(y)],
        [lambda x, y: x.float(), lambda x, y: x.to(torch.float32), lambda x, y: x.to(dtype=torch.float32)],
        [lambda x, y: x[:, :, None], lambda x, y: x.unsqueeze(2), lambda x, y: torch.unsqueeze(x, dim=2), lambda x, y: x[:, :, None, :]],
        [lambda x, y: x.transpose(1, 2), lambda x, y: torch.transpose(x, 1, 2), lambda x, y: x.swapaxes(1, 2)],
        [lambda x, y: x.view(2, 12), lambda x, y: x.reshape((2, 12)), lambda x, y: torch.reshape(x, (2, 12))],
        [lambda x, y: F.softmax(x, -1), lambda x, y: x.softmax(dim=-1), lambda x, y: torch.softmax(x, -1)],
        [lambda x, y: x.mean(-1, keepdim=True), lambda x, y: torch.mean(x, dim=-1, keepdim=True)],
        [lambda x, y: F.silu(x), lambda x, y: F.silu(x, inplace=False)],
        [lambda x, y: torch.cat((x, y), dim=-1), lambda x, y: torch.concat([x, y], -1)],
        [lambda x, y: F.scaled_dot_product_attention(x, y, y), lambda x, y: F.scaled_dot_product_attention(x, y, y, None, 0.0, False)],
        [lambda x, y: F.gelu(x), lambda x, y: F.gelu(x, approximate="none")],
    ],
)
def test_spellings_of_one_operation_are_equal(spellings: list[Callable[[Tensor, Tensor], Tensor]]) -> None:
    first, *others = map(last, spellings)
    assert others == [first] * len(others)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x, y: x - y, lambda x, y: y - x),
        (lambda x, y: x.float(), lambda x, y: x.double()),
        (lambda x, y: x[:, None], lambda x, y: x[:, :, None]),
        (lambda x, y: x[:, 1:], lambda x, y: x[:, :2]),
        (lambda x, y: F.gelu(x), lambda x, y: F.gelu(x, approximate="tanh")),
        (lambda x, y: x.softmax(-1), lambda x, y: x.softmax(-1, dtype=torch.float64)),
        (lambda x, y: torch.add(x, y, alpha=2), lambda x, y: x + y),
    ],
)
def test_different_operations_are_different(one: Callable[..., Tensor], other: Callable[..., Tensor]) -> None:
    assert last(one) != last(other)


def test_only_sums_and_products_and_their_like_commute() -> None:
    names = {function: last(function) for function in (operator.add, operator.mul, operator.sub, operator.truediv)}
    assert [Operation(*form).commutes for form in names.values()] == [True, True, False, False]


def test_a_function_of_unknown_signature_has_its_arguments_by_position() -> None:
    def of_its_own(*tensors: Tensor) -> Tensor:
        return tensors[0]

    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    assert operation_of(graph.call_function(of_its_own, (x, 3))) == Operation("of_its_own", {"argument 0": x, "argument 1": 3})
