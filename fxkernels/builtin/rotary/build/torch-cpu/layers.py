"""The kernel layers `rotary_pos_emb` and `qk_norm_rotary`, in fewer and smaller steps than the references."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["qk_norm_rotary", "rotary_pos_emb"]

_HALF_PRECISION = (torch.bfloat16, torch.float16)


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    first, second = x.chunk(2, dim=-1)
    return first, second


def _rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """`q` and `k` rotated, or rotated back: that is the gradient. The last dimension of `cos` and `sin` is theirs or half of it."""
    full = cos.shape[-1] == q.shape[-1]
    first, second = _halves(sin) if full else (sin, sin)
    # Signs go into the small factors: Dynamo rewrites `addcmul_` with a `value` into operations that round differently (torch 2.11, 2.13).
    first, second = (second, -first) if inverse else (-first, second)
    if not full:
        return _rotated_by_halves(q, cos, first, second), _rotated_by_halves(k, cos, first, second)
    outputs = q * cos, k * cos
    if all(output.dtype in _HALF_PRECISION for output in outputs):
        # These convert to float32 and back in each operation, and slowly in rows as short as half a head: so few operations, on whole rows.
        factor = torch.cat((first, second), dim=-1)
        for output, x in zip(outputs, (q, k), strict=True):
            output.addcmul_(_swapped(x, output), factor)
        return outputs
    for output, x in zip(outputs, (q, k), strict=True):
        (output1, output2), (x1, x2) = _halves(output), _halves(x)
        output1.addcmul_(x2, first)
        output2.addcmul_(x1, second)
    return outputs


def _swapped(x: Tensor, like: Tensor) -> Tensor:
    """`x` with its halves swapped, in the layout of `like`: `torch.cat` would lay transposed heads out anew."""
    (x1, x2), swapped = _halves(x), torch.empty_like(like)
    first, second = _halves(swapped)
    first.copy_(x2)
    second.copy_(x1)
    return swapped


def _rotated_by_halves(x: Tensor, cos: Tensor, first: Tensor, second: Tensor) -> Tensor:
    x1, x2 = _halves(x)
    return torch.cat(((x1 * cos).addcmul_(x2, first), (x2 * cos).addcmul_(x1, second)), dim=-1)


def _composed(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The same rotation from operations that autograd differentiates in every argument, for any dtypes and an odd last dimension."""
    middle = x.shape[-1] // 2
    x1, x2 = x[..., :middle], x[..., middle:]
    if 2 * cos.shape[-1] == x.shape[-1]:
        return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)
    return x * cos + torch.cat((-x2, x1), dim=-1) * sin


def _is_common(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether `_rotated` covers these arguments; the rest is rare and goes to `_composed`."""
    size = q.shape[-1]
    if torch.is_grad_enabled() and (cos.requires_grad or sin.requires_grad or q.requires_grad != k.requires_grad):
        return False
    sizes_fit = size % 2 == 0 and k.shape[-1] == size and cos.shape[-1] in (size, size // 2) and sin.shape[-1] == cos.shape[-1]
    return sizes_fit and cos.dtype == sin.dtype


class _RotaryFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.shapes, ctx.dtypes, ctx.inverse = (q.shape, k.shape), (q.dtype, k.dtype), inverse
        return _rotated(q, k, cos, sin, inverse)

    @staticmethod
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        # With create_graph=True this goes through autograd again.
        grad_q, grad_k = _rotate(grad_q, grad_k, cos, sin, inverse=not ctx.inverse)
        # cos and sin may have a batch that q and k were broadcast to.
        grad_q, grad_k = grad_q.sum_to_size(ctx.shapes[0]), grad_k.sum_to_size(ctx.shapes[1])
        return grad_q.to(ctx.dtypes[0]), grad_k.to(ctx.dtypes[1]), None, None, None


def _rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad):
        return _RotaryFunction.apply(q, k, cos, sin, inverse)  # type: ignore[no-any-return,no-untyped-call]
    return _rotated(q, k, cos, sin, inverse)


class rotary_pos_emb(nn.Module):  # noqa: N801 - a function layer's class has the layer's name
    """Rotary position embedding of queries and keys, as in Llama (full `cos` and `sin`) and in gpt-oss (half of the last dimension).

    Outputs are rounded once less than the reference's. Nothing is mutated, whatever the strides.
    """

    has_backward = True
    can_torch_compile = True

    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        cos = cos.unsqueeze(unsqueeze_dim)
        sin = sin.unsqueeze(unsqueeze_dim)
        if _is_common(q, k, cos, sin):
            return _rotate(q, k, cos, sin)
        return _composed(q, cos, sin), _composed(k, cos, sin)


class qk_norm_rotary(nn.Module):  # noqa: N801  (the layer name that mappings use)
    """Queries and keys, each head normalised by a weight counted from `offset`, and rotated; rounded once, at the end."""

    has_backward = True
    can_torch_compile = True

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        query_weight: Tensor,
        key_weight: Tensor,
        cos: Tensor,
        sin: Tensor,
        query_eps: float = 1e-6,
        key_eps: float = 1e-6,
        offset: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        queries = _normalized_and_rotated(query, query_weight, cos, sin, query_eps, offset)
        return queries, _normalized_and_rotated(key, key_weight, cos, sin, key_eps, offset)


def _normalized_and_rotated(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float, offset: float) -> Tensor:
    """(batch, heads, positions, size) of (batch, positions, heads, size)."""
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * (weight.to(torch.float32) + offset)
    first, second = _halves(wide)
    turned = wide * cos.to(torch.float32).unsqueeze(2) + torch.cat((-second, first), dim=-1) * sin.to(torch.float32).unsqueeze(2)
    return turned.to(torch.promote_types(x.dtype, cos.dtype)).transpose(1, 2)
