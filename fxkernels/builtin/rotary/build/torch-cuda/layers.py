"""The kernel layers: the functions that models have under one name differ in where the pairs of a head lie, and in the outputs' dtype."""

from __future__ import annotations

from torch import Tensor, nn

from .functions import rotary
from .qk_norm import normalized_and_turned

__all__ = ["qk_norm_rotary", "rotary_pos_emb", "rotary_pos_emb_in_dtype", "rotary_pos_emb_interleaved"]


class rotary_pos_emb(nn.Module):  # noqa: N801 - a function layer's class has the layer's name
    """Llama's and gpt-oss's: the two of a pair lie half a head apart; wider tables widen the outputs."""

    has_backward = True
    can_torch_compile = True

    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        return rotary(q, k, cos, sin, unsqueeze_dim, interleaved=False, promote=True)


class rotary_pos_emb_in_dtype(nn.Module):  # noqa: N801
    """OLMo's, ModernBERT's and ESM's: as Llama's, in the dtype of the heads whatever the tables have."""

    has_backward = True
    can_torch_compile = True

    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        return rotary(q, k, cos, sin, unsqueeze_dim, interleaved=False, promote=False)


class rotary_pos_emb_interleaved(nn.Module):  # noqa: N801
    """The OpenAI privacy filter's and Cohere's: the two of a pair are neighbours."""

    has_backward = True
    can_torch_compile = True

    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        return rotary(q, k, cos, sin, unsqueeze_dim, interleaved=True, promote=True)


class qk_norm_rotary(nn.Module):  # noqa: N801
    """Queries and keys, each head normalised by a weight counted from `offset`, and turned as Llama does."""

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
        queries = normalized_and_turned(query, query_weight, cos, sin, query_eps, offset)
        return queries, normalized_and_turned(key, key_weight, cos, sin, key_eps, offset)
