"""The causal convolution as a function of tensors: what is launched on which grid, and its gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from . import kernels

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
    return _forward(x, weight, bias, silu)


def _composed(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """The same from operations that autograd differentiates as often as one likes."""
    wide = F.conv1d(x.to(weight.dtype), weight.unsqueeze(1), bias, padding=weight.shape[-1] - 1, groups=x.shape[1])
    result = wide[:, :, : x.shape[-1]]
    return (F.silu(result) if silu else result).to(x.dtype)


def _tile(x: Tensor) -> tuple[int, int]:
    """Channels and times of a tile: long in the direction that is dense in memory, and wide enough in the other to use whole sectors."""
    if x.stride(1) == 1 and x.stride(2) != 1:
        return min(32, triton.next_power_of_2(x.shape[1])), min(64, triton.next_power_of_2(x.shape[2]))
    return min(8, triton.next_power_of_2(x.shape[1])), min(256, triton.next_power_of_2(x.shape[2]))


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    batch, count, length = x.shape
    width = weight.shape[1]
    # Without an activation the reference returns a part of what `conv1d` returns, which is longer.
    y = torch.empty((batch, count, length if silu else length + width - 1), dtype=x.dtype, device=x.device)[:, :, :length]
    if x.numel() == 0:
        return y
    channels, times = _tile(x)
    kernels.forward[(batch * triton.cdiv(length, times), triton.cdiv(count, channels))](
        x,
        weight.contiguous(),
        x if bias is None else bias.contiguous(),
        y,
        *x.stride(),
        y.stride(0),
        y.stride(1),
        count,
        length,
        BIAS=bias is not None,
        SILU=silu,
        WIDTH=width,
        CHANNELS=channels,
        TIMES=times,
        num_warps=4,
    )
    return y


def _backward(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    batch, count, length = x.shape
    width = weight.shape[1]
    grad_x = torch.empty_like(x)
    if x.numel() == 0:
        return grad_x, torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias)
    channels, times = _tile(x)
    blocks = batch * triton.cdiv(length, times)
    partial = torch.empty((blocks, count, width + 1), dtype=torch.float32, device=x.device)
    kernels.backward[(blocks, triton.cdiv(count, channels))](
        grad,
        x,
        weight.contiguous(),
        x if bias is None else bias.contiguous(),
        grad_x,
        partial,
        *grad.stride(),
        *x.stride(),
        *grad_x.stride(),
        count,
        length,
        BIAS=bias is not None,
        SILU=silu,
        WIDTH=width,
        CHANNELS=channels,
        TIMES=times,
        num_warps=8,  # with four, a thread has so many values that few programs fit on a multiprocessor
    )
    # The second stage: without atomics, so the same sums come out each time.
    sums = partial.sum(0)
    return grad_x, sums[:, :width].to(weight.dtype), None if bias is None else sums[:, width].to(bias.dtype)


class _CausalConv1d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.silu = silu
        return _forward(x, weight, bias, silu)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate these gradients
            inputs = [tensor for tensor in (x, weight, bias) if tensor is not None and tensor.requires_grad]
            found = iter(torch.autograd.grad(_composed(x, weight, bias, ctx.silu), inputs, grad, create_graph=True))
            return *(next(found) if tensor is not None and tensor.requires_grad else None for tensor in (x, weight, bias)), None
        return *_backward(grad, x, weight, bias, ctx.silu), None
