"""H10: the dtype of its output is not the layer's: that of the input where a float32 weight decides, or float32 always."""

import torch
from torch import nn


def norm(x, weight, eps):
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * (wide * scale).to(x.dtype), scale


class InputsDtype(nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return norm(hidden_states, self.weight.to(hidden_states.dtype), self.variance_epsilon)[0]


class AlwaysFloat32(nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return norm(hidden_states.float(), self.weight.float(), self.variance_epsilon)[0]
