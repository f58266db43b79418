"""H9: other functions by the same name: zero-centred, rounding late, gated by another curve, rotating neighbours instead of halves."""

import torch
from torch import nn


def rotated(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def norm(x, weight, eps):
    wide = x.float()
    return weight * wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)


class ZeroCentredRMSNorm(nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return norm(hidden_states, 1 + self.weight, self.variance_epsilon).to(hidden_states.dtype)


class LateRoundingRMSNorm(nn.Module):
    """Multiplies by a float32 weight before it rounds, where the layer rounds first and returns float32."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return norm(hidden_states, self.weight, self.variance_epsilon).to(hidden_states.dtype)


class SigmoidGatedRMSNorm(nn.Module):
    """Gates by the sigmoid; the layer gates by SiLU."""

    def forward(self, hidden_states: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        out = norm(hidden_states, self.weight, self.variance_epsilon)
        return (out * torch.sigmoid(gate.float())).to(hidden_states.dtype)


class interleaved_rotary(nn.Module):  # noqa: N801
    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        def turned(x, cos, sin):
            return x * cos + torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2) * sin

        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return turned(q, cos, sin), turned(k, cos, sin)


class half_dim_rotary(nn.Module):  # noqa: N801
    """Takes cos and sin for half of the dimension, as some models have them; of the others' it reads the first half."""

    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        half = q.shape[-1] // 2
        cos, sin = (torch.cat((t[..., :half], t[..., :half].flip(-1)), -1).unsqueeze(unsqueeze_dim) for t in (cos, sin))
        return rotated(q, cos, sin), rotated(k, cos, sin)
