"""The kernel layers. None reads anything from the layer that it stands in for."""

from __future__ import annotations

from torch import Tensor, nn

from .functions import activation, activation_and_mul, gated

__all__ = ["FastGELU", "GeGLU", "GeLU", "GeluAndMul", "GeluTanh", "GeluTanhAndMul", "NewGELU", "QuickGELU", "SiLU", "SiluAndMul", "SwiGLU"]


class SiluAndMul(nn.Module):
    """SwiGLU: ``silu(x[..., :d]) * x[..., d:]`` with d half of the last dimension."""

    has_backward = True
    can_torch_compile = True

    def forward(self, x: Tensor) -> Tensor:
        return activation_and_mul(x, "silu")


class SwiGLU(nn.Module):
    """``silu(gate) * up``: the same of two tensors."""

    has_backward = True
    can_torch_compile = True

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        return gated(gate, up, "silu")


class GeGLU(nn.Module):
    """``gelu(gate) * up``, by tanh or by erf."""

    has_backward = True
    can_torch_compile = True

    def forward(self, gate: Tensor, up: Tensor, approximate: str = "tanh") -> Tensor:
        return gated(gate, up, "gelu_tanh" if approximate == "tanh" else "gelu")


class GeluAndMul(nn.Module):
    """GeGLU by erf: ``gelu(x[..., :d]) * x[..., d:]``."""

    has_backward = True
    can_torch_compile = True

    def forward(self, x: Tensor) -> Tensor:
        return activation_and_mul(x, "gelu")


class GeluTanhAndMul(nn.Module):
    """GeGLU by tanh: ``gelu(x[..., :d], approximate="tanh") * x[..., d:]``."""

    has_backward = True
    can_torch_compile = True

    def forward(self, x: Tensor) -> Tensor:
        return activation_and_mul(x, "gelu_tanh")


class SiLU(nn.Module):
    """``x * sigmoid(x)``."""

    has_backward = True
    can_torch_compile = True

    def forward(self, input: Tensor) -> Tensor:
        return activation(input, "silu")


class GeLU(nn.Module):
    """GELU by erf."""

    has_backward = True
    can_torch_compile = True

    def forward(self, input: Tensor) -> Tensor:
        return activation(input, "gelu")


class GeluTanh(nn.Module):
    """GELU by tanh, in one operation in the reference."""

    has_backward = True
    can_torch_compile = True

    def forward(self, input: Tensor) -> Tensor:
        return activation(input, "gelu_tanh")


class NewGELU(nn.Module):
    """GELU by tanh, in eight operations in the reference."""

    has_backward = True
    can_torch_compile = True

    def forward(self, input: Tensor) -> Tensor:
        return activation(input, "gelu_tanh")


class FastGELU(nn.Module):
    """GELU by tanh, factored otherwise."""

    has_backward = True
    can_torch_compile = True

    def forward(self, input: Tensor) -> Tensor:
        return activation(input, "gelu_tanh")


class QuickGELU(nn.Module):
    """``x * sigmoid(1.702 * x)``."""

    has_backward = True
    can_torch_compile = True

    def forward(self, input: Tensor) -> Tensor:
        return activation(input, "quick_gelu")
