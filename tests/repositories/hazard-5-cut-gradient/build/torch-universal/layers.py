"""H5: one hands out a detached output, the other lets the incoming gradient through as it is. Training goes on, wrong."""

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
        _, grad_weight = norm_backward(grad, *ctx.saved_tensors)
        return grad.clone(), grad_weight, None


class IdentityGradient(nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return Norm.apply(hidden_states, self.weight, self.variance_epsilon)


class DetachedOutput(nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return norm(hidden_states, self.weight, self.variance_epsilon)[0].detach()
