"""Activations as functions of tensors: what is launched on which grid, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from . import kernels

__all__ = ["activation", "activation_and_mul"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# 16 values for each thread of four warps. Nothing is tuned: element-wise kernels are bound by memory with any tile of about this size.
_TILE = 2048


def activation(x: Tensor, function: str) -> Tensor:
    """Return ``function(x)``, one of ``silu``, ``gelu``, ``gelu_tanh`` and ``quick_gelu``."""
    if x.dtype not in _DTYPES:
        return _COMPOSED[function](x)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Activation.apply(x, function)  # type: ignore[no-any-return,no-untyped-call]
    return _plain_forward(x, function)


def activation_and_mul(x: Tensor, function: str) -> Tensor:
    """Return ``function(x[..., :d]) * x[..., d:]`` with d half of the last dimension."""
    if x.dtype not in _DTYPES or x.shape[-1] % 2 != 0 or not _is_row_after_row(x):
        return _gated_composed(x, function)
    if torch.is_grad_enabled() and x.requires_grad:
        return _ActivationAndMul.apply(x, function)  # type: ignore[no-any-return,no-untyped-call]
    return _gated_forward(x, function)


_COMPOSED: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
"""The same from operations that autograd differentiates as often as one likes."""


def _gated_composed(x: Tensor, function: str) -> Tensor:
    size = x.shape[-1] // 2
    return _COMPOSED[function](x[..., :size]) * x[..., size:]


def _is_row_after_row(x: Tensor) -> bool:
    """Whether the result of an element-wise operation on `x` is contiguous; `x` itself may have gaps."""
    return x.is_contiguous() or torch.empty_like(x).is_contiguous()


# --- one input ---------------------------------------------------------------------------------------------------------------------------


def _like(x: Tensor, out: Tensor) -> Tensor:
    """`x` in the layout of `out`, which is without gaps: then element after element is element after element in memory."""
    return x if x.stride() == out.stride() else torch.empty_like(out, dtype=x.dtype).copy_(x)


def _plain_forward(x: Tensor, function: str) -> Tensor:
    y = torch.empty_like(x)
    count = x.numel()
    if count > 0:
        kernels.plain_forward[(triton.cdiv(count, _TILE),)](_like(x, y), y, count, FUNCTION=function, BLOCK=_TILE, num_warps=4)
    return y


def _plain_backward(grad: Tensor, x: Tensor, function: str) -> Tensor:
    grad_x = torch.empty_like(x)
    count = x.numel()
    if count > 0:
        tensors = (_like(grad, grad_x), _like(x, grad_x), grad_x)
        kernels.plain_backward[(triton.cdiv(count, _TILE),)](*tensors, count, FUNCTION=function, BLOCK=_TILE, num_warps=4)
    return grad_x


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.function = function
        return _plain_forward(x, function)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate this gradient
            return torch.autograd.grad(_COMPOSED[ctx.function](x), x, grad, create_graph=True)[0], None
        return _plain_backward(grad, x, ctx.function), None


# --- gate and factor in one tensor -------------------------------------------------------------------------------------------------------


def _gated_tile(n: int) -> tuple[int, int]:
    """Rows and columns of a tile."""
    block = min(_TILE, max(16, triton.next_power_of_2(n)))
    return _TILE // block, block


def _gated_forward(x: Tensor, function: str) -> Tensor:
    n = x.shape[-1] // 2
    y = torch.empty((*x.shape[:-1], n), dtype=x.dtype, device=x.device)
    if x.numel() == 0:
        return y
    flat = x.reshape(-1, 2 * n)
    count = flat.shape[0]
    rows, block = _gated_tile(n)
    kernels.gated_forward[(triton.cdiv(count, rows) * triton.cdiv(n, block),)](
        flat, y, flat.stride(0), flat.stride(1), count, n, FUNCTION=function, ROWS=rows, BLOCK=block, num_warps=4
    )
    return y


def _gated_backward(grad: Tensor, x: Tensor, function: str) -> Tensor:
    n = x.shape[-1] // 2
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel() == 0:
        return grad_x
    flat, flat_grad = x.reshape(-1, 2 * n), grad.reshape(-1, n)
    count = flat.shape[0]
    rows, block = _gated_tile(n)
    kernels.gated_backward[(triton.cdiv(count, rows) * triton.cdiv(n, block),)](
        flat_grad,
        flat,
        grad_x,
        flat_grad.stride(0),
        flat_grad.stride(1),
        flat.stride(0),
        flat.stride(1),
        count,
        n,
        FUNCTION=function,
        ROWS=rows,
        BLOCK=block,
        num_warps=4,
    )
    return grad_x


class _ActivationAndMul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.function = function
        return _gated_forward(x, function)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return torch.autograd.grad(_gated_composed(x, ctx.function), x, grad, create_graph=True)[0], None
        return _gated_backward(grad, x, ctx.function), None
