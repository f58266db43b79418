"""The kernel layer `LayerNorm`, for layers that are torch's own or have its attributes."""

from __future__ import annotations

from torch import Tensor, nn

from .functions import layer_norm

__all__ = ["LayerNorm"]


class LayerNorm(nn.Module):
    """`torch.nn.LayerNorm`, with or without weight and bias, over any number of last dimensions."""

    has_backward = True
    can_torch_compile = True

    normalized_shape: tuple[int, ...]
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def forward(self, input: Tensor) -> Tensor:
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)
