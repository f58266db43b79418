"""The kernel layers: the bodies that models have under one name differ in dtype, in rounding, in the attributes read, and in a gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .functions import add_and_normalize
from .functions import rms_norm as rms_norm_of

__all__ = ["AddRMSNorm", "RMSNorm", "RMSNormGated", "RMSNormRoundedLast", "RMSNormZeroCentered", "add_rms_norm", "rms_norm"]


class RMSNorm(nn.Module):
    """Llama's: normalised, rounded to the input's dtype, multiplied by the weight; a wider weight widens the output.

    Here the product is rounded, and nothing before it.
    """

    has_backward = True
    can_torch_compile = True

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        dtype = torch.promote_types(hidden_states.dtype, self.weight.dtype)
        return rms_norm_of(hidden_states, self.weight, self.variance_epsilon, dtype)


class RMSNormRoundedLast(nn.Module):
    """OLMo's and Nemotron's: normalised, multiplied by the weight, rounded to the input's dtype."""

    has_backward = True
    can_torch_compile = True

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        return rms_norm_of(hidden_states, self.weight, self.variance_epsilon, hidden_states.dtype)


class RMSNormZeroCentered(nn.Module):
    """Qwen 3.5's and Gemma's: multiplied by one more than the weight, rounded to the input's dtype."""

    has_backward = True
    can_torch_compile = True

    weight: Tensor
    eps: float

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm_of(x, self.weight, self.eps, x.dtype, offset=1.0)


class RMSNormGated(nn.Module):
    """Qwen3-Next's (SiLU) and Kimi Linear's (sigmoid): multiplied by weight and activated gate, rounded to the input's dtype."""

    has_backward = True
    can_torch_compile = True

    weight: Tensor
    variance_epsilon: float
    activation: str

    def forward(self, hidden_states: Tensor, gate: Tensor) -> Tensor:
        activation = "silu" if self.activation == "swish" else self.activation
        return rms_norm_of(hidden_states, self.weight, self.variance_epsilon, hidden_states.dtype, gate=gate, activation=activation)


class AddRMSNorm(nn.Module):
    """The sum of two tensors, and Llama's norm of the sum."""

    has_backward = True
    can_torch_compile = True

    norm: RMSNorm

    def forward(self, hidden_states: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(residual.dtype, self.norm.weight.dtype)
        return add_and_normalize(residual, hidden_states, self.norm.weight, self.norm.variance_epsilon, dtype)


def _defaults(x: Tensor, weight: Tensor | None, eps: float | None) -> tuple[Tensor, float]:
    """Weight and epsilon of `torch.nn.functional.rms_norm` where it is given none; epsilon is float32's for half precision too (2.13)."""
    weight = torch.ones(x.shape[-1], dtype=x.dtype, device=x.device) if weight is None else weight
    return weight, torch.finfo(torch.float32).eps if eps is None else eps


class rms_norm(nn.Module):  # noqa: N801  (the layer name that mappings use)
    """The norm of a tensor by a weight that is an argument, counted from `offset`."""

    has_backward = True
    can_torch_compile = True

    def forward(self, x: Tensor, weight: Tensor | None = None, eps: float | None = None, offset: float = 0.0) -> Tensor:
        return rms_norm_of(x, *_defaults(x, weight, eps), x.dtype, offset=offset)


class add_rms_norm(nn.Module):  # noqa: N801
    """The sum of two tensors, and the norm of the sum by such a weight."""

    has_backward = True
    can_torch_compile = True

    def forward(
        self, hidden_states: Tensor, residual: Tensor, weight: Tensor | None = None, eps: float | None = None, offset: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        return add_and_normalize(residual, hidden_states, *_defaults(residual, weight, eps), residual.dtype, offset)
