"""Residual addition and RMS norm."""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F

from ..fusion import ANY, Fusion, Layer, alternative
from .rms_norm import written_out_rms_norm


class AddRMSNorm(Fusion):
    """A residual stream plus a block's output, and the norm of the sum. Pre-norm decoders have two in a layer (Llama, Qwen, Mistral).

    A kernel reads both inputs once and writes the sum and its norm: four times the size of the hidden states, where two kernels move five.
    """

    norm = Layer("RMSNorm")

    def forward(self, hidden_states: Any, residual: Any) -> Any:
        """Return the norm of the sum, and the sum."""
        residual = residual + hidden_states
        return self.norm(residual), residual


class AddRMSNormOfTensors(Fusion):
    """The same where the norm is not annotated (Gemma, T5): its weight and constants are arguments, as for `rms_norm`."""

    layer_name = "add_rms_norm"

    def forward(self, hidden_states: Any, residual: Any, weight: Any = None, eps: Any = None, offset: Any = 0.0) -> Any:
        """Return the norm of the sum, and the sum."""
        residual = residual + hidden_states
        return F.rms_norm(residual, ANY, weight, eps), residual

    @alternative
    def written_out(self, hidden_states: Any, residual: Any, weight: Any, eps: Any, offset: Any) -> Any:
        """The norm as operations."""
        residual = residual + hidden_states
        return written_out_rms_norm(residual, weight, eps, offset), residual
