"""Root-mean-square norms that no model annotates."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from ..fusion import ANY, Fusion, alternative, one_of


def written_out_rms_norm(x: Any, weight: Any, eps: Any, offset: Any) -> Any:
    """The norm as models write it: rounded before the weight (T5), or after it (Gemma, whose weight counts from one)."""
    wide = one_of(x.float(), x)
    normalized = one_of(wide, x) * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    scaled = normalized * (offset + one_of(weight.float(), weight))
    rounded = one_of(normalized.to(ANY), normalized)
    return one_of(scaled.type_as(x), scaled.to(ANY), scaled, rounded * weight, (normalized * weight).to(ANY))


class RMSNormOfTensors(Fusion):
    """A root-mean-square norm as operations, or torch's own (Gemma, T5, and every `torch.nn.RMSNorm`).

    Norms annotated with ``RMSNorm`` have these operations too. Where a kernel is mapped to that name, it comes first.
    """

    layer_name = "rms_norm"

    def forward(self, x: Any, weight: Any = None, eps: Any = None, offset: Any = 0.0) -> Any:
        """Return the norm over the last dimension.

        Args:
            x: What is normalised.
            weight: What the result is multiplied with, of the length of the last dimension; none for one.
            eps: What is added to the mean square; none for the epsilon of float32.
            offset: What is added to the weight.
        """
        return F.rms_norm(x, ANY, weight, eps)

    @alternative
    def written_out(self, x: Any, weight: Any, eps: Any, offset: Any) -> Any:
        """As operations."""
        return written_out_rms_norm(x, weight, eps, offset)
