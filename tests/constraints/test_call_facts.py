"""Facts of real tensors and of the fake ones of a captured graph, and conditions on them checked while a model runs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from constraint_calls import Capture, checked
from torch import fx

from fxkernels.constraints import parse
from fxkernels.constraints.call_facts import CallFacts, TensorFacts
from fxkernels.constraints.evaluate import Evaluation


def holds(text: str, call: CallFacts) -> bool | None:
    """Whether a constraint holds for a call; None if that is not known."""
    return Evaluation(call).holds(parse(text))


def test_facts_of_a_tensor_are_its_metadata() -> None:
    x = torch.zeros(2, 3, dtype=torch.bfloat16, requires_grad=True)
    assert TensorFacts.of(x) == TensorFacts(torch.bfloat16, (2, 3), (3, 1), "cpu", True)


def test_tensor_without_strides_has_no_layout_to_ask_for() -> None:
    call = CallFacts({"x": torch.eye(3).to_sparse()})
    assert checked("dim(x, 0) == 3", call).miss is None
    for text in ("stride(x, 0) == 3", "contiguous(x)"):
        miss = checked(text, call).miss
        assert miss is not None
        assert miss.code == "layout"


def test_contiguous_is_what_torch_says_of_every_small_layout() -> None:
    capture = Capture()
    rows, columns, stride = (capture.environment.create_unbacked_symint() for _ in "rcs")
    dynamic = CallFacts({"x": TensorFacts(torch.float32, (rows, columns), (stride, 1))})
    symbols = [size.node.expr for size in (rows, columns, stride)]
    for sizes in itertools.product(range(4), range(4)):
        for strides in itertools.product(range(5), range(3)):
            tensor = torch.empty_strided(sizes, strides)
            assert holds("contiguous(x)", CallFacts({"x": tensor})) is tensor.is_contiguous()
            if strides[1] == 1:
                values = dict(zip(symbols, (*sizes, strides[0]), strict=True))
                assert holds("contiguous(x)", dynamic.at(values)) is tensor.is_contiguous()


def captured(function: Any, *inputs: torch.Tensor) -> tuple[CallFacts, str]:
    """The tensors of a captured graph, inputs and results, by their names there; and the name of the last one of rank 1."""
    found: list[CallFacts] = []

    def backend(graph: fx.GraphModule, examples: Any) -> Any:
        values = {node.name: node.meta["example_value"] for node in graph.graph.nodes if "example_value" in node.meta}
        found.append(CallFacts({name: value for name, value in values.items() if isinstance(value, torch.Tensor)}))
        return graph

    torch.compile(function, backend=backend, dynamic=True)(*inputs)
    call = found[-1]
    return call, [name for name, value in call.arguments.items() if value.dim() == 1][-1]


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
    call, last = captured(function, torch.ones(10, 7))
    assert isinstance(call.arguments[last].shape[0], torch.SymInt)
    assert [text for text in proven if holds(text.format(last), call) is not True] == []


def test_condition_on_symbolic_sizes_becomes_a_guard_that_is_checked_when_the_model_runs() -> None:
    """The kernel here is wrong where the length is no multiple of 8, as its constraint says."""
    decided: list[bool] = []

    def backend(graph: fx.GraphModule, examples: Any) -> Any:
        # Not from `examples`: those are the real tensors, whose sizes are plain numbers even in a dynamic graph (torch 2.11 to 2.14).
        values = [node.meta.get("example_value") for node in graph.graph.nodes]
        x = next(value for value in values if isinstance(value, torch.Tensor))
        result = checked("dim(x, -1) % 8 == 0", CallFacts({"x": x}))
        assert result.guard is not None
        result.guard.enforce()
        decided.append(result.miss is None)
        return kernel if decided[-1] else graph

    def kernel(*inputs: Any) -> tuple[torch.Tensor, ...]:
        x = next(value for value in inputs if isinstance(value, torch.Tensor))
        return (x * (2 if x.shape[-1] % 8 == 0 else 3),)

    doubled = torch.compile(lambda x: x * 2, backend=backend, dynamic=True)
    for length in (16, 24, 20, 12, 32, 17, 64):
        x = torch.randn(3, length)
        assert torch.equal(doubled(x), x * 2)
    assert decided == [True, False]
