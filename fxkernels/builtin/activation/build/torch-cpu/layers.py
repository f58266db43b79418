"""The kernel layers `SiluAndMul`, `SwiGLU` and `GeGLU`: forward without a second buffer, backward written straight into its results."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GeGLU", "SiluAndMul", "SwiGLU"]


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    size = x.shape[-1] // 2
    return x[..., :size], x[..., size:]


def _silu_and_mul(x: Tensor) -> Tensor:
    gate, up = _halves(x)
    return F.silu(gate).mul_(up)


def _composed(x: Tensor) -> Tensor:
    """The same from operations that autograd differentiates as often as one likes."""
    gate, up = _halves(x)
    return F.silu(gate) * up


class _SiluAndMulFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        # detach: Dynamo of torch 2.11 routes no gradient to a returned tensor that was written in place (pytorch issue 180642).
        return _silu_and_mul(x).detach()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate this gradient
            (grad_input,) = torch.autograd.grad(_composed(x), x, grad_output, create_graph=True)
            return grad_input
        # Autograd's own backward of the two slices fills, for each, a zero tensor of the size of x and adds the two. No `out=` into the
        # halves: Dynamo refuses an `out` that is not contiguous (torch 2.11, 2.13).
        gate, up = _halves(x)
        grad_input = torch.empty_like(x)
        grad_gate, grad_up = _halves(grad_input)
        grad_gate.copy_(torch.ops.aten.silu_backward(grad_output * up, gate))
        F.silu(grad_up.copy_(gate), inplace=True).mul_(grad_output)
        return grad_input


class SiluAndMul(nn.Module):
    """``silu(x[..., :d]) * x[..., d:]`` with d half of the last dimension.

    Reads nothing from the layer it stands in for. Output and gradient are bit-equal to the reference's.
    """

    has_backward = True
    can_torch_compile = True

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return _SiluAndMulFunction.apply(x)  # type: ignore[no-any-return,no-untyped-call]
        return _silu_and_mul(x)


def _activated(gate: Tensor, approximate: str | None) -> Tensor:
    """SiLU, or GELU by erf (``none``) or by ``tanh``."""
    return F.silu(gate) if approximate is None else F.gelu(gate, approximate=approximate)


class _GatedFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, approximate: str | None) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.approximate = approximate
        return _activated(gate, approximate).mul_(up).detach()  # detach: as above

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        approximate = ctx.approximate
        if torch.is_grad_enabled():
            grads = torch.autograd.grad(_activated(gate, approximate) * up, (gate, up), grad_output, create_graph=True)
            return grads[0], grads[1], None
        if approximate is None:
            grad_gate = torch.ops.aten.silu_backward(grad_output * up, gate)
        else:
            grad_gate = torch.ops.aten.gelu_backward(grad_output * up, gate, approximate=approximate)
        return grad_gate, _activated(gate, approximate).mul_(grad_output), None


def _gated(gate: Tensor, up: Tensor, approximate: str | None) -> Tensor:
    if torch.is_grad_enabled() and gate.requires_grad and up.requires_grad and gate.dtype == up.dtype and gate.shape == up.shape:
        return _GatedFunction.apply(gate, up, approximate)  # type: ignore[no-any-return,no-untyped-call]
    return _activated(gate, approximate) * up


class SwiGLU(nn.Module):
    """``silu(gate) * up``: the same of two tensors. Output and gradients are bit-equal to the reference's."""

    has_backward = True
    can_torch_compile = True

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        return _gated(gate, up, None)


class GeGLU(nn.Module):
    """``gelu(gate) * up``, by tanh or by erf. Output and gradients are bit-equal to those of torch's GELU."""

    has_backward = True
    can_torch_compile = True

    def forward(self, gate: Tensor, up: Tensor, approximate: str = "tanh") -> Tensor:
        return _gated(gate, up, approximate)
