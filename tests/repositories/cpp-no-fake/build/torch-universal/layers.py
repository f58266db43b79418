"""The layers: two with a backward, two without, and one that keeps a tensor where nobody but its own backward can find it."""

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


class _StashingRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        normalized, ctx.scale = ops.rms_norm(x, weight, eps)
        ctx.save_for_backward(x, weight)
        return normalized

    @staticmethod
    def backward(ctx, grad):
        return *ops.rms_norm_backward(grad, *ctx.saved_tensors, ctx.scale), None


class _SiluAndMul(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return ops.silu_and_mul(x)

    @staticmethod
    def backward(ctx, grad):
        return ops.silu_and_mul_backward(grad, *ctx.saved_tensors)


class RMSNorm(nn.Module):
    weight: torch.Tensor
    variance_epsilon: float

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return _RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)


class StashingRMSNorm(nn.Module):
    """Keeps a tensor as an attribute of ctx, past `save_for_backward`."""

    weight: torch.Tensor
    variance_epsilon: float

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return _StashingRMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)


class UndeclaredRMSNorm(nn.Module):
    """Has no backward and does not say so. Its output requires a gradient all the same, and autograd gives None with a warning."""

    weight: torch.Tensor
    variance_epsilon: float

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return ops.rms_norm(hidden_states, self.weight, self.variance_epsilon)[0]


class SiluAndMul(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _SiluAndMul.apply(x)


class InferenceSiluAndMul(nn.Module):
    """Has no backward, and says so."""

    has_backward = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ops.silu_and_mul(x)
