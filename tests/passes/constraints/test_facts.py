"""Facts of real tensors and of the fake ones of a captured graph, and the residual checked while a model runs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import sympy
import torch
from torch import fx

from fxkernels.passes.constraints import Depends, Facts, Proven, TensorFacts, check, tensor_facts


def test_facts_of_a_tensor_are_its_metadata() -> None:
    x = torch.zeros(2, 3, dtype=torch.bfloat16, requires_grad=True)
    assert tensor_facts(x) == TensorFacts(torch.bfloat16, (2, 3), (3, 1), "cpu", True)


def test_tensor_without_strides_has_no_layout_to_ask_for() -> None:
    facts = Facts({"x": tensor_facts(torch.eye(3).to_sparse())})
    assert check(["dim(x, 0) == 3"], facts) == Proven()
    assert check(["stride(x, 0) == 3"], facts).miss.message == "stride(x, 0) == 3: x has no strides"  # type: ignore[union-attr]
    assert check(["contiguous(x)"], facts).miss.code == "layout"  # type: ignore[union-attr]


def test_contiguous_is_what_torch_says_of_every_small_layout() -> None:
    rows, columns, stride = (sympy.Symbol(name, integer=True) for name in "rcs")
    dynamic = check(["contiguous(x)"], Facts({"x": TensorFacts(torch.float32, (rows, columns), (stride, 1))}))
    assert isinstance(dynamic, Depends)
    for sizes in itertools.product(range(4), range(4)):
        for strides in itertools.product(range(5), range(3)):
            tensor = torch.empty_strided(sizes, strides)
            assert isinstance(check(["contiguous(x)"], Facts({"x": tensor_facts(tensor)})), Proven) is tensor.is_contiguous()
            if strides[1] == 1:
                assert dynamic.holds((*sizes, strides[0])) is tensor.is_contiguous()


def captured(function: Any, *inputs: torch.Tensor) -> Facts:
    """The facts of a captured graph's tensors: inputs and results, by their names there."""
    facts: list[Facts] = []

    def backend(graph: fx.GraphModule, examples: Any) -> Any:
        values = {node.name: node.meta["example_value"] for node in graph.graph.nodes if "example_value" in node.meta}
        tensors = {name: tensor_facts(value) for name, value in values.items() if isinstance(value, torch.Tensor)}
        ranges = {
            symbol: tuple(int(bound) if bound.is_Integer else None for bound in (known.lower, known.upper))
            for value in values.values()
            if isinstance(value, torch.SymInt)
            for symbol, known in value.node.shape_env.var_to_range.items()
        }
        facts.append(Facts(tensors, ranges=ranges))  # type: ignore[arg-type]
        return graph

    torch.compile(function, backend=backend, dynamic=True)(*inputs)
    return facts[-1]


def named(facts: Facts, rank: int) -> list[str]:
    return [name for name, value in facts.arguments.items() if len(value.shape) == rank]


@pytest.mark.parametrize(
    ("function", "proven"),
    [
        (lambda x: x.reshape(-1).sin(), ["contiguous({})", "dim({}, 0) >= 4"]),
        (lambda x: x.repeat(1, 8).reshape(-1), ["dim({}, 0) % 8 == 0"]),
        (lambda x: x[: x.shape[0] // 2].sum(1), ["dim({}, 0) >= 1"]),
        (lambda x: x[:, : x.shape[1] % 4].sum(0), ["dim({}, 0) < 4"]),
        (lambda x: torch.cat([x, x], 1).sum(0), ["dim({}, 0) % 2 == 0"]),
    ],
)
def test_sizes_as_torch_writes_them_are_understood(function: Any, proven: list[str]) -> None:
    facts = captured(function, torch.ones(10, 7))
    last = named(facts, 1)[-1]
    assert any(isinstance(size, sympy.Expr) for size in facts.arguments[last].shape)
    assert check([text.format(last) for text in proven], facts) == Proven()


def test_residual_on_symbolic_sizes_becomes_a_guard_that_is_checked_when_the_model_runs() -> None:
    """The kernel here is wrong where the length is no multiple of 8, as its constraint says."""
    decided: list[bool] = []

    def backend(graph: fx.GraphModule, examples: Any) -> Any:
        # Not from `examples`: those are the real tensors, whose sizes are plain numbers even in a dynamic graph (torch 2.11 to 2.14).
        values = [node.meta.get("example_value") for node in graph.graph.nodes]
        x = next(value for value in values if isinstance(value, torch.Tensor))
        answer = check(["dim(x, -1) % 8 == 0"], Facts({"x": tensor_facts(x)}))
        assert isinstance(answer, Depends)
        decided.append(answer.holds([x.shape[1]]))
        return kernel if decided[-1] else graph

    def kernel(*inputs: Any) -> tuple[torch.Tensor, ...]:
        x = next(value for value in inputs if isinstance(value, torch.Tensor))
        return (x * (2 if x.shape[-1] % 8 == 0 else 3),)

    doubled = torch.compile(lambda x: x * 2, backend=backend, dynamic=True)
    for length in (16, 24, 20, 12, 32, 17, 64):
        x = torch.randn(3, length)
        assert torch.equal(doubled(x), x * 2)
    assert decided == [True, False]
