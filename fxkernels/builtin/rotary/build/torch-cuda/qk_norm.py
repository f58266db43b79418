"""Queries or keys, each head normalised and turned by its position: the forward in Triton, the backward from operations of torch.

With x a head, r = 1 / sqrt(mean(x^2) + eps), y = x r (offset + w), and c, s the tables:

    out_1 = y_1 c_1 - y_2 s_1        out_2 = y_2 c_2 + y_1 s_2        (_1 and _2: the first and the second half)

Everything is computed in float32 and rounded once. Each head is read and written once. A program has one head of one position.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["normalized_and_turned"]


@triton.jit
def normalize_and_turn(
    x, weight, cos, sin, out, x_batch, x_row, x_head, x_column, cos_batch, cos_row, cos_column, sin_batch, sin_row, sin_column,
    rows, heads, half, eps, OFFSET: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    head, row, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < half
    x += batch * x_batch + row * x_row + head * x_head
    cos += batch * cos_batch + row * cos_row
    sin += batch * sin_batch + row * sin_row
    first = tl.load(x + columns * x_column, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x + (half + columns) * x_column, mask=inside, other=0.0).to(tl.float32)
    reciprocal = tl.rsqrt((tl.sum(first * first, axis=0) + tl.sum(second * second, axis=0)) / (2 * half) + eps)
    first = first * reciprocal * (tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32) + OFFSET)
    second = second * reciprocal * (tl.load(weight + half + columns, mask=inside, other=0.0).to(tl.float32) + OFFSET)
    cos_1 = tl.load(cos + columns * cos_column, mask=inside, other=0.0).to(tl.float32)
    cos_2 = tl.load(cos + (half + columns) * cos_column, mask=inside, other=0.0).to(tl.float32)
    sin_1 = tl.load(sin + columns * sin_column, mask=inside, other=0.0).to(tl.float32)
    sin_2 = tl.load(sin + (half + columns) * sin_column, mask=inside, other=0.0).to(tl.float32)
    out += ((batch * rows + row) * heads + head) * 2 * half
    tl.store(out + columns, first * cos_1 - second * sin_1, mask=inside)
    tl.store(out + half + columns, second * cos_2 + first * sin_2, mask=inside)


def normalized_and_turned(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, epsilon: float, offset: float) -> Tensor:
    """Return (batch, heads, positions, size) of (batch, positions, heads, size)."""
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _NormalizeAndTurn.apply(x, weight, cos, sin, epsilon, offset)  # type: ignore[no-any-return,no-untyped-call]
    return _launched(x, weight, cos, sin, epsilon, offset)


def _launched(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, epsilon: float, offset: float) -> Tensor:
    batch, rows, heads, size = x.shape
    out = torch.empty((batch, rows, heads, size), dtype=torch.promote_types(x.dtype, cos.dtype), device=x.device)
    if x.numel() > 0:
        cos, sin = cos.expand(batch, rows, size), sin.expand(batch, rows, size)
        strides = *x.stride(), *cos.stride(), *sin.stride()
        form = {"OFFSET": offset, "BLOCK": max(16, triton.next_power_of_2(size // 2))}
        grid = (heads, rows, batch)
        normalize_and_turn[grid](x, weight.contiguous(), cos, sin, out, *strides, rows, heads, size // 2, epsilon, **form, num_warps=1)
    return out.transpose(1, 2)


def _composed(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, epsilon: float, offset: float, dtype: torch.dtype) -> Tensor:
    """The same from operations that autograd differentiates as often as one likes."""
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon) * (weight.to(torch.float32) + offset)
    first, second = wide.chunk(2, dim=-1)
    turned = wide * cos.to(torch.float32).unsqueeze(2) + torch.cat((-second, first), dim=-1) * sin.to(torch.float32).unsqueeze(2)
    return turned.to(dtype).transpose(1, 2)


class _NormalizeAndTurn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, epsilon: float, offset: float) -> Tensor:
        ctx.save_for_backward(x, weight, cos, sin)
        ctx.constants = epsilon, offset
        return _launched(x, weight, cos, sin, epsilon, offset)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, cos, sin = ctx.saved_tensors
        again = torch.is_grad_enabled()  # create_graph=True: somebody will differentiate these gradients
        with torch.enable_grad():
            inputs = [t for t in (x, weight) if t.requires_grad]
            y = _composed(x, weight, cos, sin, *ctx.constants, torch.float32)
            found = iter(torch.autograd.grad(y, inputs, grad.to(torch.float32), create_graph=again))
        return *(next(found) if t.requires_grad else None for t in (x, weight)), None, None, None, None
