"""The layers, and the autograd functions around the ops."""

import torch
from torch import nn

from .ops import ops


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        normalized, scale = ops.rms_norm(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return normalized

    @staticmethod
    def backward(ctx, grad):
        return *ops.rms_norm_backward(grad, *ctx.saved_tensors), None


class _AddRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, residual, weight, eps):
        normalized, total, scale = ops.add_rms_norm(x, residual, weight, eps)
        ctx.save_for_backward(total, weight, scale)
        return normalized, total

    @staticmethod
    def backward(ctx, grad, grad_total):
        grad_sum, grad_weight = ops.rms_norm_backward(grad, *ctx.saved_tensors)
        grad_sum = grad_sum + grad_total
        return grad_sum, grad_sum, grad_weight, None


class RMSNorm(nn.Module):
    can_torch_compile = True
    weight: torch.Tensor
    variance_epsilon: float

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return _RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)


class AddRMSNorm(nn.Module):
    can_torch_compile = True
    weight: torch.Tensor
    variance_epsilon: float

    def forward(self, hidden_states: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _AddRMSNorm.apply(hidden_states, residual, self.weight, self.variance_epsilon)
