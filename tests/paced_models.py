"""A layer that takes its time, so that kernels of tests/repositories/paces are faster or slower than it by far more than any noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from kernel_repositories import repository
from torch import nn

from fxkernels import Mode, use_kernel_forward_from_hub

SIZE = 64


@use_kernel_forward_from_hub("Scaling")
class Scaling(nn.Module):
    """The input times the weight, as the sum of forty parts."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(SIZE) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = x * self.weight / 40
        for _ in range(39):
            total = total + x * self.weight / 40
        return total


class Chain(nn.Module):
    """Two linear layers with a scaling after each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)
        self.scale, self.last = Scaling(), Scaling()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.scale(self.first(x)).relu()))


def paced(first: str, second: str | None = None) -> dict[str, Any]:
    """Return the mapping to one kernel of tests/repositories/paces, or to two in the order of preference."""
    if second is None:
        return {"Scaling": {"cpu": repository("paces", first)}}
    return {"Scaling": {"cpu": {Mode.TRAINING: repository("paces", first), Mode.FALLBACK: repository("paces", second)}}}


def example() -> torch.Tensor:
    """Return an input that is large enough to be timed."""
    return torch.randn(SIZE, SIZE)


@contextmanager
def one_thread() -> Iterator[None]:
    """Threads wait for each other where a machine has other things to do, and then a small operation takes milliseconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
