"""Canaries for the sizes that the user has marked as dynamic."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxkernels.capture import _torch


def promises(**limits: int | None) -> list[bool]:
    """What is promised of the sizes of an input of which the last dimension is marked."""
    found: list[bool] = []

    def backend(gm: fx.GraphModule, example_inputs: list[Any]) -> Any:
        (x,) = [
            value
            for node in gm.graph.nodes
            if isinstance(value := node.meta.get("example_value"), torch.Tensor) and node.op == "placeholder"
        ]
        (size,) = [size for size in x.shape if isinstance(size, torch.SymInt)]
        promised = _torch.sizes_marked_dynamic(size.node.shape_env)
        found.extend(promised[symbol] for symbol in size.node.expr.free_symbols if symbol in promised)
        return gm.forward

    x = torch.randn(3, 12)
    if limits.pop("marked", True):
        torch._dynamo.mark_dynamic(x, 1, **limits)
    else:
        torch._dynamo.maybe_mark_dynamic(x, 1)
    torch.compile(lambda x: x * 2, backend=backend)(x)
    return found


def test_sizes_marked_dynamic() -> None:
    assert promises() == [False]


def test_sizes_marked_dynamic_with_a_range() -> None:
    assert promises(min=2, max=64) == [True]


def test_sizes_that_may_be_fixed_are_not_promised() -> None:
    assert promises(marked=False) == []
