"""Activations, in plain torch with forward and backward."""

import torch
import torch.nn.functional as F
from torch import nn

from .counter import count


class SiLU(nn.Module):
    """x * sigmoid(x)."""

    has_backward = True
    can_torch_compile = True

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        count("SiLU", input)
        return F.silu(input)


class GeLU(nn.Module):
    """The exact GELU, by erf."""

    has_backward = True
    can_torch_compile = True

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        count("GeLU", input)
        return F.gelu(input)


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x)."""

    has_backward = True
    can_torch_compile = True

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        count("QuickGELU", input)
        return input * torch.sigmoid(1.702 * input)


class SiluAndMul(nn.Module):
    """silu of the first half of the last dimension times the second half."""

    has_backward = True
    can_torch_compile = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count("SiluAndMul", x)
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up
