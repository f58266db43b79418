"""Rotary position embedding with the body of Llama's: cos and sin over the whole head dimension."""

import torch
from torch import nn

from .counter import count


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class rotary_pos_emb(nn.Module):  # noqa: N801 - a kernel layer for a function bears the function's layer name
    """Plain torch, forward and backward."""

    has_backward = True
    can_torch_compile = True

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        count("rotary_pos_emb", q)
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return _rotated(q, cos, sin), _rotated(k, cos, sin)


class InferenceRotary(nn.Module):
    """No backward, and says so: the outputs are detached."""

    has_backward = False
    can_torch_compile = True

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        count("InferenceRotary", q)
        cos, sin = cos.unsqueeze(unsqueeze_dim).detach(), sin.unsqueeze(unsqueeze_dim).detach()
        return _rotated(q.detach(), cos, sin), _rotated(k.detach(), cos, sin)
