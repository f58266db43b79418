"""The experts of a mixture: the tokens of each expert brought together, its products, and the weighted sum."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from ..fusion import ANY, Fusion, alternative, one_of


class Experts(Fusion):
    """Tokens sorted by expert, gathered, multiplied in groups, sorted back, weighted and summed (Mixtral, Qwen3-MoE, GPT-OSS).

    It is what transformers' ``grouped_mm`` implementation of experts writes out, its default since 5.0. A kernel need not move the tokens
    between sorting and summing, which takes a third of such a block in Qwen3-MoE.
    """

    layer_name = "experts"

    def forward(
        self,
        hidden_states: Any,
        indices: Any,
        weights: Any,
        gate_up: Any,
        down: Any,
        gate_up_bias: Any = None,
        down_bias: Any = None,
        alpha: Any = None,
        limit: Any = None,
    ) -> Any:
        """Return the weighted sum of the experts' results for each token.

        Args:
            hidden_states: (tokens, width).
            indices: The experts of each token, (tokens, k).
            weights: Their weights, of the same shape.
            gate_up: (experts, width, 2 * inner); first all gates, then all ups. With `limit` they take turns.
            down: (experts, inner, width).
            gate_up_bias: (experts, 2 * inner).
            down_bias: (experts, width).
            alpha: With it the gate is ``gate * sigmoid(alpha * gate)``, and one is added to up (GPT-OSS); without it ``silu(gate)``.
            limit: What gate and up are clamped to before.
        """
        _, order, offsets = _sorted(indices)
        found = F.grouped_mm(_gathered(hidden_states, order), gate_up, offs=offsets)
        halves = found.chunk(2, dim=-1)
        found = F.silu(halves[0]) * halves[1]
        found = F.grouped_mm(one_of(found.to(ANY), found), down, offs=offsets)
        return _summed(found, weights, order)

    @alternative
    def clamped(
        self,
        hidden_states: Any,
        indices: Any,
        weights: Any,
        gate_up: Any,
        down: Any,
        gate_up_bias: Any,
        down_bias: Any,
        alpha: Any,
        limit: Any,
    ) -> Any:
        """With biases, and a gate that is clamped."""
        ids, order, offsets = _sorted(indices)
        found = F.grouped_mm(_gathered(hidden_states, order), gate_up, offs=offsets).add(gate_up_bias[ids])
        gate = found[..., ::2].clamp(min=None, max=limit)
        up = found[..., 1::2].clamp(min=ANY, max=limit)
        found = (up + 1) * (gate * torch.sigmoid(gate * alpha))
        found = F.grouped_mm(one_of(found.to(ANY), found), down, offs=offsets).add(down_bias[ids])
        return _summed(found, weights, order)


def _sorted(indices: Any) -> tuple[Any, Any, Any]:
    """The experts in ascending order, the places that they come from, and how many places there are up to each expert's last."""
    found = torch.sort(indices.reshape(ANY))
    ids, order = found[0], found[1]
    counts = torch.histc(one_of(ids.to(ANY), ids), bins=ANY, min=ANY, max=ANY)
    return ids, order, torch.cumsum(counts, dim=0, dtype=ANY)


def _gathered(hidden_states: Any, order: Any) -> Any:
    tokens = hidden_states[order // ANY]
    return one_of(tokens.to(ANY), tokens)


def _summed(found: Any, weights: Any, order: Any) -> Any:
    """Weighted, sorted back, and summed for each token."""
    weighted = found * weights.reshape(ANY)[order].unsqueeze(-1)
    back = torch.index_put(torch.empty_like(order), (order,), ANY)
    summed = weighted[back].view(ANY).sum(dim=1)
    return one_of(summed.to(ANY), summed)
