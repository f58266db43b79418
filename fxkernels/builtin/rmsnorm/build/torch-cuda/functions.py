"""RMSNorm as a function of tensors: what is launched on which grid, and its gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from . import kernels

__all__ = ["rms_norm"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Rows up to this length are held in registers: one value takes one register of a thread in the forward, about four in the backward.
_LONGEST_FORWARD, _LONGEST_BACKWARD = 32768, 16384

# Programs of the backward that hold 8192 values each: two for each multiprocessor of an H100 or H200. Each leaves a row of partial sums.
_PROGRAMS = 264


def rms_norm(
    x: Tensor,
    weight: Tensor,
    epsilon: float,
    dtype: torch.dtype,
    *,
    offset: float = 0.0,
    gate: Tensor | None = None,
    activation: str = "none",
) -> Tensor:
    """Return ``x / rms(x) * (offset + weight) * activation(gate)``, computed in float32 and rounded to `dtype`."""
    tensors = [x, weight] if gate is None else [x, weight, gate]
    fits = weight.dim() == 1 and weight.shape[0] == x.shape[-1] and (gate is None or gate.shape == x.shape)
    # What an element-wise operation returns is laid out like its inputs; where that is not row after row, torch's own operations know how.
    if not fits or any(t.dtype not in _DTYPES for t in tensors) or not _is_row_after_row(x):
        return _composed(x, weight, gate, epsilon, dtype, offset, activation)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return _RMSNorm.apply(x, weight, gate, epsilon, dtype, offset, activation)  # type: ignore[no-any-return,no-untyped-call]
    return _forward(x, weight, gate, epsilon, dtype, offset, activation)[0]


def _is_row_after_row(x: Tensor) -> bool:
    """Whether the result of an element-wise operation on `x` is contiguous; `x` itself may have gaps."""
    return x.is_contiguous() or torch.empty_like(x).is_contiguous()


def _composed(x: Tensor, weight: Tensor, gate: Tensor | None, epsilon: float, dtype: torch.dtype, offset: float, activation: str) -> Tensor:
    """The same from operations that autograd differentiates as often as one likes."""
    wide = x.to(torch.float32)
    result = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon) * (weight.to(torch.float32) + offset)
    if gate is not None:
        result = result * (torch.sigmoid if activation == "sigmoid" else F.silu)(gate.to(torch.float32))
    return result.to(dtype)


def _tile(n: int, longest: int) -> tuple[bool, int, int, int]:
    """Whether a block covers a row, how many rows a program takes, the block, and the warps: 16 values for each thread.

    Nothing is tuned: how a row is read is settled by its length, and the same bits come out on every machine.
    """
    whole = n <= longest
    block = max(16, triton.next_power_of_2(n)) if whole else 8192
    rows = max(1, 2048 // block) if whole else 1
    return whole, rows, block, min(16, max(4, rows * block // 512))


def _forward(
    x: Tensor, weight: Tensor, gate: Tensor | None, epsilon: float, dtype: torch.dtype, offset: float, activation: str
) -> tuple[Tensor, Tensor]:
    n = x.shape[-1]
    flat = x.reshape(-1, n)
    flat_gate = flat if gate is None else gate.reshape(-1, n)
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    count = flat.shape[0]
    reciprocals = torch.empty(count, dtype=torch.float32, device=x.device)
    if x.numel() == 0:
        return y, reciprocals
    whole, rows, block, warps = _tile(n, _LONGEST_FORWARD)
    kernels.forward[(triton.cdiv(count, rows),)](
        flat,
        weight.contiguous(),
        flat_gate,
        y,
        reciprocals,
        flat.stride(0),
        flat.stride(1),
        flat_gate.stride(0),
        flat_gate.stride(1),
        count,
        n,
        epsilon,
        OFFSET=offset,
        ACTIVATION=activation,
        WHOLE=whole,
        ROWS=rows,
        BLOCK=block,
        num_warps=warps,
    )
    return y, reciprocals


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, gate: Tensor | None, reciprocals: Tensor, offset: float, activation: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    n = x.shape[-1]
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grad_gate = None if gate is None else torch.empty(gate.shape, dtype=gate.dtype, device=x.device)
    if x.numel() == 0:
        return grad_x, torch.zeros_like(weight), grad_gate
    flat, flat_grad = x.reshape(-1, n), grad.reshape(-1, n)
    flat_gate = flat if gate is None else gate.reshape(-1, n)
    count = flat.shape[0]
    whole, rows, block, warps = _tile(n, _LONGEST_BACKWARD)
    steps = triton.cdiv(count, rows)
    each = triton.cdiv(steps, _PROGRAMS * min(4, max(1, 8192 // (rows * block))))
    programs = triton.cdiv(steps, each)
    partial = torch.empty((programs, n), dtype=torch.float32, device=x.device)
    kernels.backward[(programs,)](
        flat_grad,
        flat,
        weight.contiguous(),
        flat_gate,
        reciprocals,
        grad_x,
        flat if grad_gate is None else grad_gate,
        partial,
        flat_grad.stride(0),
        flat_grad.stride(1),
        flat.stride(0),
        flat.stride(1),
        flat_gate.stride(0),
        flat_gate.stride(1),
        count,
        n,
        each,
        OFFSET=offset,
        ACTIVATION=activation,
        WHOLE=whole,
        ROWS=rows,
        BLOCK=block,
        num_warps=warps,
    )
    # The second stage: without atomics, so the same sums come out each time.
    return grad_x, partial.sum(0).to(weight.dtype), grad_gate


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, gate: Tensor | None, epsilon: float, dtype: torch.dtype, offset: float, activation: str
    ) -> Tensor:
        y, reciprocals = _forward(x, weight, gate, epsilon, dtype, offset, activation)
        ctx.save_for_backward(x, weight, gate, reciprocals)
        ctx.constants = epsilon, dtype, offset, activation
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, gate, reciprocals = ctx.saved_tensors
        epsilon, dtype, offset, activation = ctx.constants
        if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate these gradients
            inputs = [tensor for tensor in (x, weight, gate) if tensor is not None and tensor.requires_grad]
            y = _composed(x, weight, gate, epsilon, dtype, offset, activation)
            found = iter(torch.autograd.grad(y, inputs, grad, create_graph=True))
            wanted = [next(found) if tensor is not None and tensor.requires_grad else None for tensor in (x, weight, gate)]
            return *wanted, None, None, None, None
        return *_backward(grad, x, weight, gate, reciprocals, offset, activation), None, None, None, None
