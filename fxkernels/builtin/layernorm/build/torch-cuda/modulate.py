"""Layer norm with a scale and a shift for each sequence or each position: the forward in Triton, the backward from operations of torch.

With z the normalised row, as in `kernels.py`:

    y = (z w + b) (1 + s) + t

Everything is computed in float32 and rounded once. x and y are moved once, 4 bytes for each value in half precision; scale and shift of a
sequence stay in the L2 cache. A program has one row.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .launches import is_long

__all__ = ["norm_and_modulate"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def modulated(
    x, weight, bias, scale, shift, y, x_batch, x_row, x_column, scale_batch, scale_row, scale_column, shift_batch, shift_row, shift_column,
    rows, n, eps, WEIGHT: tl.constexpr, BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < n
    values = tl.load(x + batch * x_batch + row * x_row + columns * x_column, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(values, axis=0) * (1.0 / n)
    centred = tl.where(inside, values - mean, 0.0)
    result = centred * tl.rsqrt(tl.sum(centred * centred, axis=0) * (1.0 / n) + eps)
    if WEIGHT:
        result = result * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        result = result + tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    by = tl.load(scale + batch * scale_batch + row * scale_row + columns * scale_column, mask=inside, other=0.0).to(tl.float32)
    to = tl.load(shift + batch * shift_batch + row * shift_row + columns * shift_column, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + (batch * rows + row) * n + columns, result * (1.0 + by) + to, mask=inside)


def norm_and_modulate(
    x: Tensor, scale: Tensor, shift: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> Tensor:
    """Return ``layer_norm(x, shape, weight, bias, epsilon) * (1 + scale) + shift``."""
    given = [t for t in (x, scale, shift, weight, bias) if t is not None]
    fits = x.dim() == 3 and shape == (x.shape[-1],) and not is_long(math.prod(shape)) and all(t.dtype is x.dtype for t in given)
    if not fits or x.dtype not in _DTYPES or scale.dim() > 3 or shift.dim() > 3 or not x.is_contiguous():
        return _composed(x, scale, shift, shape, weight, bias, epsilon)
    if torch.is_grad_enabled() and any(t.requires_grad for t in given):
        return _NormModulate.apply(x, scale, shift, shape, weight, bias, epsilon)  # type: ignore[no-any-return,no-untyped-call]
    return _launched(x, scale, shift, weight, bias, epsilon)


def _composed(
    x: Tensor, scale: Tensor, shift: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> Tensor:
    return F.layer_norm(x, shape, weight, bias, epsilon) * (1 + scale) + shift


def _launched(x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float) -> Tensor:
    batch, rows, n = x.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel() > 0:
        scale, shift = scale.expand(x.shape), shift.expand(x.shape)
        parameters = [x if p is None else p.contiguous() for p in (weight, bias)]
        strides = *x.stride(), *scale.stride(), *shift.stride()
        form = {"WEIGHT": weight is not None, "BIAS": bias is not None, "BLOCK": max(16, triton.next_power_of_2(n))}
        modulated[(rows, batch)](x, *parameters, scale, shift, y, *strides, rows, n, epsilon, **form, num_warps=4)
    return y


class _NormModulate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        shape: tuple[int, ...],
        weight: Tensor | None,
        bias: Tensor | None,
        epsilon: float,
    ) -> Tensor:
        ctx.save_for_backward(x, scale, shift, weight, bias)
        ctx.constants = shape, epsilon
        return _launched(x, scale, shift, weight, bias, epsilon)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, weight, bias = ctx.saved_tensors
        shape, epsilon = ctx.constants
        wide = x.dtype if x.dtype is torch.float32 else torch.float32
        again = torch.is_grad_enabled()  # create_graph=True: somebody will differentiate these gradients
        with torch.enable_grad():
            inputs = [t for t in (x, scale, shift, weight, bias) if t is not None and t.requires_grad]
            tensors = [None if t is None else t.to(wide) for t in (x, scale, shift, weight, bias)]
            y = _composed(tensors[0], tensors[1], tensors[2], shape, tensors[3], tensors[4], epsilon)  # type: ignore[arg-type]
            found = iter(torch.autograd.grad(y, inputs, grad.to(wide), create_graph=again))
        grads = [next(found) if t is not None and t.requires_grad else None for t in (x, scale, shift, weight, bias)]
        return *grads[:3], None, *grads[3:], None
