"""H1: its backward writes dX where the incoming gradient is. A residual connection around the norm reads that gradient as well."""

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
        grad_x, grad_weight = norm_backward(grad, *ctx.saved_tensors)
        return grad.copy_(grad_x), grad_weight, None


class RMSNorm(nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return Norm.apply(hidden_states, self.weight, self.variance_epsilon)
