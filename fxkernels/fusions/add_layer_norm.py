"""Residual addition and layer norm."""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F

from ..fusion import Fusion


class AddLayerNorm(Fusion):
    """A residual stream plus a block's output, and the layer norm of the sum: before a block (Whisper, SigLIP, Phi) or after it (BERT).

    A kernel reads both inputs once and writes the sum and its norm: four times the size of the hidden states, where two kernels move five.
    """

    layer_name = "add_layer_norm"

    def forward(
        self, hidden_states: Any, residual: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: Any = 1e-5
    ) -> Any:
        """Return the norm of the sum, and the sum; the further arguments are those of `torch.nn.functional.layer_norm`."""
        residual = residual + hidden_states
        return F.layer_norm(residual, normalized_shape, weight, bias, eps), residual
