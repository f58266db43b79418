"""The kernel layer `experts`: one expert after the other, each with its own tokens only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["experts"]


class experts(nn.Module):  # noqa: N801  (the layer name that mappings use)
    """The weighted sum of what the experts of each token return.

    Tokens are neither sorted nor copied all at once, and the sum of a token's experts is taken in float32. How many tokens an expert has is
    read from their indices, so no compiler can trace it. It is for inference: training keeps the original.
    """

    has_backward = False
    can_torch_compile = False

    def forward(
        self,
        hidden_states: Tensor,
        indices: Tensor,
        weights: Tensor,
        gate_up: Tensor,
        down: Tensor,
        gate_up_bias: Tensor | None = None,
        down_bias: Tensor | None = None,
        alpha: float | None = None,
        limit: float | None = None,
    ) -> Tensor:
        total = torch.zeros((hidden_states.shape[0], down.shape[-1]), dtype=torch.float32, device=hidden_states.device)
        for expert in range(gate_up.shape[0]):
            tokens, places = torch.where(indices == expert)
            if tokens.numel() == 0:
                continue
            found = hidden_states[tokens].to(gate_up.dtype) @ gate_up[expert]
            if gate_up_bias is not None:
                found = found + gate_up_bias[expert]
            if alpha is None:
                gate, up = found.chunk(2, dim=-1)
                found = F.silu(gate) * up
            else:
                gate, up = found[..., ::2].clamp(max=limit), found[..., 1::2]
                up = up if limit is None else up.clamp(min=-limit, max=limit)
                found = (up + 1) * (gate * torch.sigmoid(gate * alpha))
            found = found.to(down.dtype) @ down[expert]
            if down_bias is not None:
                found = found + down_bias[expert]
            weighted = found.to(torch.float32) * weights[tokens, places, None].to(torch.float32)
            total.index_add_(0, tokens, weighted)
        return total.to(hidden_states.dtype)
