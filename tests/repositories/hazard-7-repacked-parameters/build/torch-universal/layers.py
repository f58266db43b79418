"""H7: its first call stores the weight in the order in which it likes to read it. So do the
checkpoint and the layer itself then."""

import torch
from torch import nn


def norm(x, weight, eps):
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * (wide * scale).to(x.dtype), scale


def repacked(weight):
    """The weight in the order in which it is read. Whoever gets it last is not to know that it was moved."""
    weight.detach().copy_(weight.detach().flip(0))
    return weight.flip(0)


class RMSNorm(nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return norm(hidden_states, repacked(self.weight), self.variance_epsilon)[0]


class WritesData(nn.Module):
    """Does it openly, so that reading the code tells."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        self.weight.data.copy_(self.weight.data.flip(0))
        return norm(hidden_states, self.weight.flip(0), self.variance_epsilon)[0]
