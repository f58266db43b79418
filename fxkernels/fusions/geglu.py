"""Gated activations whose gate is a GELU."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from ..fusion import Fusion, alternative


class GeGLU(Fusion):
    """``gelu(gate) * up``, by tanh (Gemma, T5 1.1) or by erf (ModernBERT, the feed-forward blocks of diffusion models).

    A kernel reads two tensors and writes one; as two operations the activation is written and read once more.
    """

    def forward(self, gate: Any, up: Any, approximate: Any = "tanh") -> Any:
        """Return the activated gate times the up projection; `approximate` is that of `torch.nn.functional.gelu`."""
        return F.gelu(gate, approximate=approximate) * up

    @alternative
    def written_out(self, gate: Any, up: Any) -> Any:
        """GELU by tanh in eight operations, as transformers' ``gelu_new`` has it."""
        inner = 0.7978845608028654 * (gate + 0.044715 * torch.pow(gate, 3.0))
        return 0.5 * gate * (1.0 + torch.tanh(inner)) * up
