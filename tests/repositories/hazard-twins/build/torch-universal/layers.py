"""The kernels of the hazards without what is wrong with them. They leave everything alone."""

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
        return *norm_backward(grad, *ctx.saved_tensors), None


class RMSNorm(nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return Norm.apply(hidden_states, self.weight, self.variance_epsilon)


class GatedRMSNorm(nn.Module):
    def forward(self, hidden_states: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        out = norm(hidden_states, self.weight, self.variance_epsilon)[0].float()
        return (out * nn.functional.silu(gate.float())).to(hidden_states.dtype)


def rotated(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class rotary_pos_emb(nn.Module):  # noqa: N801 - a kernel layer for a function bears the function's layer name
    def forward(self, q, k, cos, sin, unsqueeze_dim=1):
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return rotated(q, cos, sin), rotated(k, cos, sin)
