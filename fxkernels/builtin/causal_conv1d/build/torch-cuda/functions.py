"""The causal convolution as a function of tensors: which calls the kernels cover, and the gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .launches import launch_backward, launch_forward

__all__ = ["causal_conv1d"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_WIDEST = 16


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """Return the convolution of each channel with its past, after a SiLU or not.

    Args:
        x: (batch, channels, length), with any strides.
        weight: (channels, width).
        bias: (channels,).
        silu: Whether the result goes through a SiLU.
    """
    tensors = [t for t in (x, weight, bias) if t is not None]
    fits = x.dim() == 3 and weight.dim() == 2 and weight.shape[0] == x.shape[1] and weight.shape[1] <= _WIDEST
    if not fits or any(t.dtype is not x.dtype or t.dtype not in _DTYPES for t in tensors):
        return _composed(x, weight, bias, silu)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return _CausalConv1d.apply(x, weight, bias, silu)  # type: ignore[no-any-return,no-untyped-call]
    return launch_forward(x, weight, bias, silu)


def _composed(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """The same from operations that autograd differentiates as often as one likes."""
    wide = F.conv1d(x.to(weight.dtype), weight.unsqueeze(1), bias, padding=weight.shape[-1] - 1, groups=x.shape[1])
    result = wide[:, :, : x.shape[-1]]
    return (F.silu(result) if silu else result).to(x.dtype)


class _CausalConv1d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.silu = silu
        return launch_forward(x, weight, bias, silu)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate these gradients
            inputs = [tensor for tensor in (x, weight, bias) if tensor is not None and tensor.requires_grad]
            found = iter(torch.autograd.grad(_composed(x, weight, bias, ctx.silu), inputs, grad, create_graph=True))
            return *(next(found) if tensor is not None and tensor.requires_grad else None for tensor in (x, weight, bias)), None
        return *launch_backward(grad, x, weight, bias, ctx.silu), None
