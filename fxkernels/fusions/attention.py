"""Attention whose key heads may be fewer than its query heads."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from ..fusion import ANY, Fusion, alternative, one_of


def _repeated(heads: Any) -> Any:
    """Each key head once for each of its query heads, as models write it; or as it is."""
    return one_of(heads[:, :, None, :, :].expand(ANY).reshape(ANY), heads.repeat_interleave(ANY, dim=1), heads)


class GroupedQueryAttention(Fusion):
    """Scaled dot product attention with the repetition of keys and values that models write out before it (transformers' `repeat_kv`).

    A kernel reads each key head once, and not once for each query head: with four query heads a key head, a quarter of the bytes, which is
    what a decoding step spends its time on.
    """

    layer_name = "attention"

    def forward(
        self, query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: Any = 0.0, is_causal: Any = False, scale: Any = None
    ) -> Any:
        """Return the attention's output, heads before positions."""
        return F.scaled_dot_product_attention(
            query,
            _repeated(key),
            _repeated(value),
            attn_mask=attn_mask,
            dropout_p=dropout_p,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=ANY,
        )

    @alternative
    def written_out(self, query: Any, key: Any, value: Any, attn_mask: Any, dropout_p: Any, scale: Any) -> Any:
        """The products and the softmax as operations of their own."""
        scores = torch.matmul(query, _repeated(key).transpose(2, 3)) * scale
        scores = one_of(scores + attn_mask, scores)
        weights = one_of(F.softmax(scores, dim=-1, dtype=torch.float32).to(ANY), F.softmax(scores, dim=-1))
        return torch.matmul(one_of(F.dropout(weights, p=dropout_p, training=ANY), weights), _repeated(value))
