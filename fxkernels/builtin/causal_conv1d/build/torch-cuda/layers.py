"""The kernel layer `causal_conv1d_fn`, the convolution before a state-space layer or a gated delta rule."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .functions import causal_conv1d

__all__ = ["causal_conv1d_fn"]


class causal_conv1d_fn(nn.Module):  # noqa: N801 - a function layer's class has the layer's name
    """transformers' function of that name, without packed sequences, which its reference does not know either."""

    has_backward = True
    can_torch_compile = True

    def forward(
        self, hidden_states: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, **kwargs: Any
    ) -> Tensor:
        if activation not in (None, "silu", "swish"):
            raise ValueError(f"this kernel knows the activations None, 'silu' and 'swish', not {activation!r}")
        return causal_conv1d(hidden_states, weight, bias, activation is not None)
