"""LayerNorm as a function of tensors: what is launched on which grid, and its gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from . import kernels

__all__ = ["layer_norm"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Rows up to this length are held in registers: one value takes one register of a thread in the forward, about five in the backward.
_LONGEST_FORWARD, _LONGEST_BACKWARD = 32768, 8192

# Programs of the backward that hold 8192 values each: two for each multiprocessor of an H100 or H200. Each leaves a row of partial sums.
_PROGRAMS = 264


def layer_norm(x: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, epsilon: float) -> Tensor:
    """Return ``torch.nn.functional.layer_norm(x, shape, weight, bias, epsilon)``, computed in float32 and rounded once."""
    parameters = [p for p in (weight, bias) if p is not None]
    fits = tuple(x.shape[x.dim() - len(shape) :]) == tuple(shape) and all(tuple(p.shape) == tuple(shape) for p in parameters)
    if not fits or x.dtype not in _DTYPES or any(p.dtype is not x.dtype for p in parameters):
        return F.layer_norm(x, shape, weight, bias, epsilon)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *parameters)):
        return _LayerNorm.apply(x, tuple(shape), weight, bias, epsilon)  # type: ignore[no-any-return,no-untyped-call]
    return _forward(x, math.prod(shape), weight, bias, epsilon)[0]


def _tile(n: int, longest: int) -> tuple[bool, int, int, int]:
    """Whether a block covers a row, how many rows a program takes, the block, and the warps: 16 values for each thread.

    Nothing is tuned: how a row is read is settled by its length, and the same bits come out on every machine.
    """
    whole = n <= longest
    block = max(16, triton.next_power_of_2(n)) if whole else 4096
    rows = max(1, 2048 // block) if whole else 1
    return whole, rows, block, min(16, max(4, rows * block // 512))


def _forward(x: Tensor, n: int, weight: Tensor | None, bias: Tensor | None, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    flat = x.reshape(-1, n)
    count = flat.shape[0]
    means, reciprocals = (torch.empty(count, dtype=torch.float32, device=x.device) for _ in range(2))
    if x.numel() == 0:
        return y, means, reciprocals
    whole, rows, block, warps = _tile(n, _LONGEST_FORWARD)
    kernels.forward[(triton.cdiv(count, rows),)](
        flat,
        flat if weight is None else weight.contiguous(),
        flat if bias is None else bias.contiguous(),
        y,
        means,
        reciprocals,
        flat.stride(0),
        flat.stride(1),
        count,
        n,
        epsilon,
        WEIGHT=weight is not None,
        BIAS=bias is not None,
        WHOLE=whole,
        ROWS=rows,
        BLOCK=block,
        num_warps=warps,
    )
    return y, means, reciprocals


def _backward(
    grad: Tensor, x: Tensor, n: int, weight: Tensor | None, bias: Tensor | None, means: Tensor, reciprocals: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel() == 0:
        return grad_x, *(None if p is None else torch.zeros_like(p) for p in (weight, bias))
    flat, flat_grad = x.reshape(-1, n), grad.reshape(-1, n)
    count = flat.shape[0]
    whole, rows, block, warps = _tile(n, _LONGEST_BACKWARD)
    steps = triton.cdiv(count, rows)
    each = triton.cdiv(steps, _PROGRAMS * min(4, max(1, 8192 // (rows * block))))
    programs = triton.cdiv(steps, each)
    partials = [None if p is None else torch.empty((programs, n), dtype=torch.float32, device=x.device) for p in (weight, bias)]
    kernels.backward[(programs,)](
        flat_grad,
        flat,
        flat if weight is None else weight.contiguous(),
        means,
        reciprocals,
        grad_x,
        *(flat if partial is None else partial for partial in partials),
        flat_grad.stride(0),
        flat_grad.stride(1),
        flat.stride(0),
        flat.stride(1),
        count,
        n,
        each,
        WEIGHT=weight is not None,
        BIAS=bias is not None,
        WHOLE=whole,
        ROWS=rows,
        BLOCK=block,
        num_warps=warps,
    )
    # The second stage: without atomics, so the same sums come out each time.
    sums = [None if p is None else s.sum(0).view(p.shape).to(p.dtype) for p, s in zip((weight, bias), partials, strict=True)]
    return grad_x, sums[0], sums[1]


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, epsilon: float) -> Tensor:
        y, means, reciprocals = _forward(x, math.prod(shape), weight, bias, epsilon)
        ctx.save_for_backward(x, weight, bias, means, reciprocals)
        ctx.constants = shape, epsilon
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, means, reciprocals = ctx.saved_tensors
        shape, epsilon = ctx.constants
        if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate these gradients
            inputs = [tensor for tensor in (x, weight, bias) if tensor is not None and tensor.requires_grad]
            found = iter(torch.autograd.grad(F.layer_norm(x, shape, weight, bias, epsilon), inputs, grad, create_graph=True))
            wanted = [next(found) if tensor is not None and tensor.requires_grad else None for tensor in (x, weight, bias)]
            return wanted[0], None, wanted[1], wanted[2], None
        grad_x, grad_weight, grad_bias = _backward(grad, x, math.prod(shape), weight, bias, means, reciprocals)
        return grad_x, None, grad_weight, grad_bias, None
