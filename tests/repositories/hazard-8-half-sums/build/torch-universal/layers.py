"""H8: it sums the weight's gradient up in the input's dtype. Over thousands of rows in bfloat16 little of it is right."""

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
        grad_x, _ = norm_backward(grad, x, weight, scale)
        rows = (grad * (x.float() * scale).to(x.dtype)).flatten(0, -2)
        total = torch.zeros_like(rows[0])
        for block in rows.split(max(len(rows) // 512, 1)):
            total = total + block.sum(0)
        return grad_x, total.to(weight.dtype), None


class RMSNorm(nn.Module):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return Norm.apply(hidden_states, self.weight, self.variance_epsilon)
