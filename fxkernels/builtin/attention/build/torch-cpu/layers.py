"""The kernel layer `attention`, for the operations that models write around `scaled_dot_product_attention`, and for those in its place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["attention"]


class attention(nn.Module):  # noqa: N801  (the layer name that mappings use)
    """Scaled dot product attention in which each key head has several query heads.

    The query heads of one key head are more rows of the same matrix: (batch, key heads, group * queries, size). So keys and values are read
    once and never repeated: for g query heads a key head, the copy of ``2 (g - 1)`` times their bytes is saved, and so is reading it.
    """

    has_backward = True
    can_torch_compile = True

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        softcap: float | None = None,
        position_bias: Tensor | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        batch, heads, queries, size = query.shape
        key_heads = key.shape[1]
        if position_bias is not None:
            attn_mask = position_bias if attn_mask is None else attn_mask + position_bias
        if softcap is not None or sinks is not None:
            return _written_out(query, key, value, attn_mask, size**-0.5 if scale is None else scale, softcap, sinks)
        if key_heads == heads or is_causal or (attn_mask is not None and attn_mask.shape[1] != 1):
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=key_heads != heads
            )
        group = heads // key_heads
        rows = query.reshape(batch, key_heads, group * queries, size)
        if attn_mask is not None:
            of_batch, keys = attn_mask.shape[0], attn_mask.shape[-1]
            attn_mask = attn_mask.expand(of_batch, group, queries, keys).reshape(of_batch, 1, group * queries, keys)
        found = F.scaled_dot_product_attention(rows, key, value, attn_mask, dropout_p, scale=scale)
        return found.reshape(batch, heads, queries, value.shape[-1])


def _written_out(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """What torch's own attention has no argument for, with scores in float32."""
    batch, heads, queries, size = query.shape
    key_heads, keys = key.shape[1], key.shape[2]
    group = heads // key_heads
    rows = query.reshape(batch, key_heads, group * queries, size)
    scores = (rows @ key.transpose(-2, -1)).to(torch.float32).reshape(batch, heads, queries, keys) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    if sinks is None:
        weights = torch.softmax(scores, dim=-1)
    else:
        # The sum of exponentials has one more term for each head, and no value belongs to it.
        sink = sinks.to(torch.float32).reshape(1, heads, 1, 1)
        peak = torch.maximum(scores.amax(-1, keepdim=True), sink).detach()  # taken out of both, so that it changes no derivative
        weights = torch.exp(scores - peak)
        weights = weights / (weights.sum(-1, keepdim=True) + torch.exp(sink - peak))
    weights = weights.to(value.dtype).reshape(batch, key_heads, group * queries, keys)
    return (weights @ value).reshape(batch, heads, queries, value.shape[-1])
