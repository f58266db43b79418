"""The kernel layers `LayerNorm`, for layers that are torch's own or have its attributes, and those of fusions."""

from __future__ import annotations

from torch import Tensor, nn

from .functions import add_and_normalize, layer_norm
from .modulate import norm_and_modulate

__all__ = ["LayerNorm", "add_layer_norm", "norm_modulate"]


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
        return add_and_normalize(residual, hidden_states, tuple(normalized_shape), weight, bias, eps)


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
        return norm_and_modulate(x, scale, shift, tuple(normalized_shape), weight, bias, eps)
