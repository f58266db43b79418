"""H2: its backward works in the memory of what it saved. A second backward through the same call gets the rest."""

import torch
from torch import nn


def norm(x, weight, eps):
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * (wide * scale).to(x.dtype), scale


def norm_backward(grad, x, weight, scale):
    normalized, wide = x.float() * scale, grad.float()
    weighted = wide * weight
    grad_x = (weighted - normalized * (weighted * normalized).mean(-1, keepdim=True)) * scale
    return grad_x.to(x.dtype), (wide * normalized).flatten(0, -2).sum(0).to(weight.dtype)


class Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        out, scale = norm(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        found = norm_backward(grad, x, weight, scale)
        scale.detach().data.mul_(2)  # behind autograd's back, as compiled code writes
        return *found, None


class RMSNorm(nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return Norm.apply(hidden_states, self.weight, self.variance_epsilon)
