"""Annotated layers that tests build their models of: small enough to read, called as real ones are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fxkernels import use_kernel_forward_from_hub


@use_kernel_forward_from_hub("RMSNorm")
class Norm(nn.Module):
    """The RMSNorm that the kernels of tests/repositories/norms stand in for."""

    def __init__(self, size: int = 8, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)
        self.variance_epsilon = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        dtype = hidden_states.dtype
        wide = hidden_states.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(dtype)


class Block(nn.Module):
    """Residual, norm, linear."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.norm, self.linear = Norm(size), nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.linear(self.norm(x))


class Stack(nn.Module):
    """Blocks and a last norm; `around` runs each block (checkpointing, a graph break ...). `encode` rules symbolic capture out."""

    def __init__(self, blocks: int = 2, around: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.norm = Norm()
        self.around = around or (lambda block, x: block(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = self.around(block, x)
        return self.norm(x)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """One block, called by itself."""
        return self.blocks[0](x)


def gradients(
    model: Callable[..., torch.Tensor], x: torch.Tensor, parameters: list[nn.Parameter]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the model's output, and the gradients of a scalar of it for the input and the parameters."""
    x = x.detach().clone().requires_grad_()
    output = model(x)
    weights = torch.linspace(-1, 1, output.numel(), device=x.device).view_as(output)
    found = torch.autograd.grad((output * weights).sum(), [x, *parameters])
    return output.detach(), list(found)
