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
        self,
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: Any = 0.0,
        is_causal: Any = False,
        scale: Any = None,
        softcap: Any = None,
        position_bias: Any = None,
        sinks: Any = None,
    ) -> Any:
        """Return the attention's output, heads before positions.

        Args:
            query: (batch, heads, queries, size).
            key: (batch, key heads, keys, size).
            value: As `key`.
            attn_mask: As for `torch.nn.functional.scaled_dot_product_attention`, and so the arguments up to `scale`.
            dropout_p: As there.
            is_causal: As there.
            scale: As there.
            softcap: Scores s become ``softcap * tanh(s / softcap)`` before the mask is added (Gemma 2).
            position_bias: What is added to the scores before the mask, of the shape of a mask (T5).
            sinks: One more score for each head, which takes its part of the softmax and has no value (GPT-OSS).
        """
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
    def written_out(
        self, query: Any, key: Any, value: Any, attn_mask: Any, dropout_p: Any, scale: Any, softcap: Any, position_bias: Any
    ) -> Any:
        """The products and the softmax as operations of their own."""
        scores = torch.matmul(query, _repeated(key).transpose(2, 3)) * scale
        scores = one_of(torch.tanh(scores / softcap) * softcap, scores)
        scores = one_of(scores + position_bias, scores)
        scores = one_of(scores + attn_mask, scores)
        weights = one_of(F.softmax(scores, dim=-1, dtype=torch.float32).to(ANY), F.softmax(scores, dim=-1))
        return torch.matmul(one_of(F.dropout(weights, p=dropout_p, training=ANY), weights), _repeated(value))

    @alternative
    def written_out_with_sinks(self, query: Any, key: Any, value: Any, attn_mask: Any, dropout_p: Any, scale: Any, sinks: Any) -> Any:
        """The softmax over the scores and one more for each head."""
        scores = torch.matmul(query, _repeated(key).transpose(2, 3)) * scale
        scores = one_of(scores + attn_mask, scores)
        scores = torch.cat([scores, sinks.reshape(ANY).expand(ANY)], dim=-1)
        scores = one_of(scores - torch.max(scores, dim=-1, keepdim=True)[0], scores)
        weights = F.softmax(scores, dim=-1, dtype=ANY)[..., :-1]
        weights = one_of(F.dropout(weights, p=dropout_p, training=ANY), weights)
        return torch.matmul(one_of(weights.to(ANY), weights), _repeated(value))
