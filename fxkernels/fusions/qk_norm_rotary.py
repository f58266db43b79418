"""The norms of queries and keys, and their rotary embedding."""

from __future__ import annotations

from typing import Any

from ..fusion import Fusion, Layer, one_of
from .rms_norm import written_out_rms_norm


class QKNormRotary(Fusion):
    """Queries and keys, each head normalised and turned by its position (Qwen3, Gemma 3).

    A kernel reads and writes queries and keys once; as two norms and the rotary embedding they are moved three times at best.
    """

    layer_name = "qk_norm_rotary"
    rotary = Layer("rotary_pos_emb")

    def forward(
        self,
        query: Any,
        key: Any,
        query_weight: Any,
        key_weight: Any,
        cos: Any,
        sin: Any,
        query_eps: Any = 1e-6,
        key_eps: Any = 1e-6,
        offset: Any = 0.0,
    ) -> Any:
        """Return queries and keys, heads before positions.

        Args:
            query: (batch, positions, heads, size).
            key: (batch, positions, key heads, size).
            query_weight: What normalised queries are multiplied with, (size,).
            key_weight: The same for keys.
            cos: (batch or 1, positions, size).
            sin: As `cos`.
            query_eps: What is added to the mean squares of queries.
            key_eps: The same for keys.
            offset: What is added to the weights; they count from one in Gemma.
        """
        queries, keys = _normed(query, query_weight, query_eps, offset), _normed(key, key_weight, key_eps, offset)
        turned = self.rotary(queries, keys, cos, sin)
        return turned[0], turned[1]


def _normed(heads: Any, weight: Any, eps: Any, offset: Any) -> Any:
    """Normalised before positions and heads change places, or after it."""
    before = written_out_rms_norm(heads, weight, eps, offset).transpose(1, 2)
    return one_of(before, written_out_rms_norm(heads.transpose(1, 2), weight, eps, offset))
