"""The kernel layer `attention`: for decoding steps, where reading keys and values is all that takes time."""

from __future__ import annotations

from torch import Tensor, nn

from .functions import grouped_attention

__all__ = ["attention"]


class attention(nn.Module):  # noqa: N801  (the layer name that mappings use)
    """Scaled dot product attention of a few queries, in which each key head has several query heads.

    Longer sequences and training are what torch's own attention is made for; the constraints leave them to it.
    """

    has_backward = False
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
        return grouped_attention(query, key, value, attn_mask, scale, softcap, sinks)
