"""The layers. None says anything about a backward or about torch.compile, as most on the Hub."""

import torch
from torch import nn

from .rms_norm import RMSNormFunction
from .silu_and_mul import SiluAndMulFunction, TunedSiluAndMulFunction


class RMSNorm(nn.Module):
    weight: torch.Tensor
    variance_epsilon: float

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return RMSNormFunction.apply(hidden_states, self.weight, self.variance_epsilon)


class SiluAndMul(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return SiluAndMulFunction.apply(x)


class TunedSiluAndMul(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return TunedSiluAndMulFunction.apply(x)


class InferenceRMSNorm(nn.Module):
    """Launches Triton and has no backward, which it says."""

    has_backward = False

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return RMSNormFunction.apply(hidden_states, self.weight, self.variance_epsilon)


class InferenceSiluAndMul(nn.Module):
    """As above."""

    has_backward = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return SiluAndMulFunction.apply(x)
