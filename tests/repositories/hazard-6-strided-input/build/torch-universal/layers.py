"""H6: it reads a strided input as if it were contiguous."""

import torch
from torch import nn


def norm(x, weight, eps):
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * (wide * scale).to(x.dtype), scale


class RMSNorm(nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x = hidden_states
        room = x.untyped_storage().nbytes() // x.element_size() - x.storage_offset()
        dense = x.as_strided(x.shape, torch.empty(x.shape, device="meta").stride()) if x.numel() <= room else x
        return norm(dense, self.weight, self.variance_epsilon)[0]
