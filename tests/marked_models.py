"""Models in which chosen layers are marked by a large epsilon: there the kernels of tests/repositories/culprits are wrong."""

from __future__ import annotations

from typing import Any

import torch
from kernel_repositories import repository
from layers import Norm, Stack
from torch import nn

MARK = 1e-3


def culprits(layer: str) -> dict[str, Any]:
    """Return the mapping to one kernel of tests/repositories/culprits."""
    return {"RMSNorm": {"cpu": repository("culprits", layer)}}


def marked_stack(*marked: int, blocks: int = 4) -> Stack:
    """Return a stack in which the norms of these blocks are marked."""
    model = Stack(blocks)
    for number in marked:
        model.blocks[number].norm.variance_epsilon = MARK
    return model


class Sum(nn.Module):
    """The sum of four norms: errors of one do not reach the others. `torch.fx` traces it exactly."""

    def __init__(self, *marked: int) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = [Norm(eps=MARK if number in marked else 1e-6) for number in range(4)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) + self.b(x) + self.c(x) + self.d(x)


class Dropping(nn.Module):
    """A stack behind dropout and batch norm, which draw and remember something in training mode."""

    def __init__(self, *marked: int) -> None:
        super().__init__()
        self.stack, self.dropout, self.batch_norm = marked_stack(*marked), nn.Dropout(0.5), nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stack(self.batch_norm(self.dropout(x)))
