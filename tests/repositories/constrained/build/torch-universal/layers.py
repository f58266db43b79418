"""RMSNorm with the body of Llama's, for calls of certain kinds only."""

import torch
from torch import nn

from .ops import norm_in_groups


class FoursRMSNorm(nn.Module):
    """For a multiple of four rows; its metadata says so."""

    has_backward = False
    can_torch_compile = True

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return norm_in_groups(hidden_states, self.weight, self.variance_epsilon, 4)


class PairsRMSNorm(nn.Module):
    """For an even number of rows, and does not say so."""

    has_backward = False
    can_torch_compile = True

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return norm_in_groups(hidden_states, self.weight, self.variance_epsilon, 2)


class HalfRMSNorm(nn.Module):
    """For half precision, input and weight alike; ``constraints.json`` says so."""

    has_backward = True
    can_torch_compile = True

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        wide = hidden_states.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(hidden_states.dtype)
