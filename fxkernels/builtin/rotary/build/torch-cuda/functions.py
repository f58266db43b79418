"""Rotary embedding as a function of tensors: which calls the kernel covers, what is launched on which grid, and the gradient."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from . import kernels
from .configurations import Configuration, configured

__all__ = ["rotary"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Pair = tuple[Tensor, Tensor]


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int, *, interleaved: bool, promote: bool) -> Pair:
    """Return queries and keys, turned by their positions.

    Args:
        q: Four dimensions: batch, heads and tokens in either order, head size.
        k: As `q`, with any number of heads.
        cos: Batch (or 1), tokens, head size or half of it.
        sin: As `cos`.
        unsqueeze_dim: Which dimension of `q` is the heads.
        interleaved: Whether the two of a pair are neighbours.
        promote: Whether the outputs have the wider dtype of heads and tables; else that of the heads.
    """
    dtypes = [torch.promote_types(x.dtype, cos.dtype) if promote else x.dtype for x in (q, k)]
    dim = unsqueeze_dim if unsqueeze_dim >= 0 else cos.dim() + 1 + unsqueeze_dim
    if not _is_covered(q, k, cos, sin, dim):
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        turned_q, turned_k = (_composed(x, cos, sin, interleaved).to(dtype) for x, dtype in zip((q, k), dtypes, strict=True))
        return turned_q, turned_k
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad):
        return _Rotary.apply(q, k, cos, sin, dim, interleaved, dtypes, False)  # type: ignore[no-any-return,no-untyped-call]
    return _launch(q, k, cos, sin, dim, interleaved, dtypes, False)


def _is_covered(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, dim: int) -> bool:
    """Whether the kernel takes these arguments; the rest is rare and goes to `_composed`."""
    if q.dim() != 4 or k.dim() != 4 or cos.dim() != 3 or sin.shape != cos.shape or dim not in (1, 2):
        return False
    if any(x.dtype not in _DTYPES for x in (q, k, cos, sin)) or cos.dtype is not sin.dtype:
        return False
    if torch.is_grad_enabled() and (cos.requires_grad or sin.requires_grad or q.requires_grad != k.requires_grad):
        return False
    size, table, tokens = q.shape[-1], cos.shape[-1], 3 - dim
    fits = size % 2 == 0 and k.shape[-1] == size and (table == size or 2 * table == size)
    same = q.shape[0] == k.shape[0] and q.shape[tokens] == k.shape[tokens] == cos.shape[1]
    return fits and same and (cos.shape[0] == q.shape[0] or cos.shape[0] == 1)


def _composed(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """The same rotation from operations that autograd differentiates in every argument, for any shapes and dtypes."""
    if interleaved:
        a, b = x[..., ::2], x[..., 1::2]
        if 2 * cos.shape[-1] == x.shape[-1]:
            return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
        return x * cos + torch.stack((-b, a), dim=-1).flatten(-2) * sin
    middle = x.shape[-1] // 2
    a, b = x[..., :middle], x[..., middle:]
    if 2 * cos.shape[-1] == x.shape[-1]:
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


def _out(x: Tensor, dtype: torch.dtype, like: bool) -> Tensor:
    """Memory for an output: laid out like the heads where the reference multiplies them as a whole, else as `torch.cat` lays them out."""
    if like:
        out = torch.empty_like(x, dtype=dtype)
        if out.stride(-1) == 1:
            return out
    return torch.empty(x.shape, dtype=dtype, device=x.device)


def _rule(pairs: int) -> Configuration:
    """Tiles of about 4096 pairs, 16 pairs for each thread; heads that are not there cost no memory traffic."""
    groups = max(1, pairs // 4096)
    return {"groups": groups, "warps": max(1, min(8, pairs // groups // 512))}


def _launch(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, dim: int, interleaved: bool, dtypes: list[torch.dtype], back: bool) -> Pair:
    batch, size, half = q.shape[0], q.shape[-1], q.shape[-1] // 2
    tokens_dim = 3 - dim
    full = cos.shape[-1] == size
    out_q, out_k = _out(q, dtypes[0], full), _out(k, dtypes[1], full)
    tokens, q_heads, k_heads = q.shape[tokens_dim], q.shape[dim], k.shape[dim]
    if out_q.numel() + out_k.numel() == 0:
        return out_q, out_k
    pair, gap = (2, 1) if interleaved else (1, half)
    table_pair, table_gap = (pair, gap) if full else (1, 0)
    block = max(8, triton.next_power_of_2(half))
    heads = triton.next_power_of_2(q_heads + k_heads)
    chosen = configured("rotate", heads * block, batch * tokens, q.device, _rule(heads * block))
    q_tile, k_tile = (triton.next_power_of_2(max(1, triton.cdiv(n, chosen["groups"]))) for n in (q_heads, k_heads))
    groups = max(triton.cdiv(q_heads, q_tile), triton.cdiv(k_heads, k_tile))
    padded = groups * q_tile != q_heads or groups * k_tile != k_heads
    strides = [x.stride(n) for x in (q, k) for n in (0, dim, tokens_dim, 3)]
    out_strides = [x.stride(n) for x in (out_q, out_k) for n in (0, dim, tokens_dim)]
    table_strides = [t.stride(n) if n > 0 or t.shape[0] > 1 else 0 for t in (cos, sin) for n in (0, 1, 2)]
    kernels.rotate[(batch * tokens, groups)](
        q,
        k,
        cos,
        sin,
        out_q,
        out_k,
        *strides,
        *out_strides,
        *table_strides,
        tokens,
        q_heads,
        k_heads,
        half,
        pair,
        gap,
        table_pair,
        table_gap,
        BACK=back,
        MASKED=half != block or padded,
        Q_HEADS=q_tile,
        K_HEADS=k_tile,
        BLOCK=block,
        num_warps=chosen["warps"],
    )
    return out_q, out_k


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, dim: int, interleaved: bool, dtypes: list[torch.dtype], back: bool
    ) -> Pair:
        ctx.save_for_backward(cos, sin)
        ctx.constants = dim, interleaved, [q.dtype, k.dtype], not back
        return _launch(q, k, cos, sin, dim, interleaved, dtypes, back)

    @staticmethod
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        constants = ctx.constants
        if torch.is_grad_enabled():  # create_graph=True: a rotation of a gradient is differentiated like any other
            found = _Rotary.apply(grad_q, grad_k, cos, sin, *constants)  # type: ignore[no-untyped-call]
        else:
            found = _launch(grad_q, grad_k, cos, sin, *constants)
        return *found, None, None, None, None, None, None
