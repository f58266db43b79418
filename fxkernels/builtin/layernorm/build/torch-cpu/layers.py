"""The kernel layer `add_layer_norm`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["add_layer_norm"]


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
