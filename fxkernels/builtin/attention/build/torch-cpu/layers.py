"""The kernel layer `attention`, for the operations that models write around `scaled_dot_product_attention`."""

from __future__ import annotations

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
    ) -> Tensor:
        batch, heads, queries, size = query.shape
        key_heads = key.shape[1]
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
