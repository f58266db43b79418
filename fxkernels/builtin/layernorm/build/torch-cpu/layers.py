"""The kernel layers `add_layer_norm` and `norm_modulate`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["add_layer_norm", "norm_modulate"]


class add_layer_norm(nn.Module):  # noqa: N801  (the layer name that mappings use)
    """The sum of two tensors, and the layer norm of the sum."""

    has_backward = True
    can_torch_compile = True

    def forward(
        self,
        hidden_states: Tensor,
        residual: Tensor,
        normalized_shape: tuple[int, ...],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> tuple[Tensor, Tensor]:
        residual = residual + hidden_states
        return F.layer_norm(residual, normalized_shape, weight, bias, eps), residual


class norm_modulate(nn.Module):  # noqa: N801
    """The layer norm of a tensor, times one more than a scale, plus a shift."""

    has_backward = True
    can_torch_compile = True

    def forward(
        self,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        normalized_shape: tuple[int, ...],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        normalized = F.layer_norm(x, normalized_shape, weight, bias, eps)
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, scale, shift, weight, bias)):
            return normalized * (1 + scale) + shift
        if normalized.dtype != torch.result_type(normalized, scale) or normalized.dtype != torch.result_type(normalized, shift):
            return normalized * (1 + scale) + shift
        return normalized.mul_(1 + scale).add_(shift)
