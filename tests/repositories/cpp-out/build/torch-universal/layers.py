"""The layers. Like most kernels of this kind, RMSNorm does not say that it has no backward; its output is silently detached."""

import torch
from torch import nn

from .ops import ops


class RMSNorm(nn.Module):
    weight: torch.Tensor
    variance_epsilon: float

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(hidden_states, dtype=torch.promote_types(hidden_states.dtype, self.weight.dtype))
        ops.rms_norm(out, hidden_states, self.weight, self.variance_epsilon)
        return out


class SiluAndMul(nn.Module):
    has_backward = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.empty(*x.shape[:-1], x.shape[-1] // 2, dtype=x.dtype, device=x.device)
        ops.silu_and_mul(out, x)
        return out
