"""Gated activations: one projection's activation times another projection."""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F

from ..fusion import Fusion, Layer, one_of


class SwiGLU(Fusion):
    """``silu(gate) * up``, the activation of most decoders' MLPs (Llama, Qwen, Mistral, Phi-3).

    A kernel reads two tensors and writes one; as two operations the activation is written and read once more.
    """

    act = Layer("SiLU")

    def forward(self, gate: Any, up: Any) -> Any:
        """Return the activated gate times the up projection."""
        return one_of(self.act(gate), F.silu(gate)) * up
