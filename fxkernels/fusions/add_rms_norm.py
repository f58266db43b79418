"""Residual addition and RMS norm."""

from __future__ import annotations

from typing import Any

from ..fusion import Fusion, Layer


class AddRMSNorm(Fusion):
    """A residual stream plus a block's output, and the norm of the sum. Pre-norm decoders have two in a layer (Llama, Qwen, Mistral).

    A kernel reads both inputs once and writes the sum and its norm: four times the size of the hidden states, where two kernels move five.
    """

    norm = Layer("RMSNorm")

    def forward(self, hidden_states: Any, residual: Any) -> Any:
        """Return the norm of the sum, and the sum."""
        residual = residual + hidden_states
        return self.norm(residual), residual
