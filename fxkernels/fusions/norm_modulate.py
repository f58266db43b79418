"""Layer norm with a scale and a shift that are computed."""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F

from ..fusion import Fusion


class NormModulate(Fusion):
    """``layer_norm(x) * (1 + scale) + shift``, the adaptive norm of diffusion transformers (Flux, Stable Diffusion 3, DiT).

    A kernel reads and writes the hidden states once; as four operations they are moved eight times.
    """

    layer_name = "norm_modulate"

    def forward(self, x: Any, scale: Any, shift: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: Any = 1e-5) -> Any:
        """Return the modulated norm; `scale` and `shift` are tensors that the norm's result broadcasts with."""
        return F.layer_norm(x, normalized_shape, weight, bias, eps) * (1 + scale) + shift
