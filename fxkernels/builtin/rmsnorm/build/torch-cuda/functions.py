"""RMSNorm as a function of tensors: which calls the kernels cover, and the gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .launches import is_long, launch_backward, launch_forward

__all__ = ["add_and_normalize", "rms_norm"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def rms_norm(
    x: Tensor,
    weight: Tensor,
    epsilon: float,
    dtype: torch.dtype,
    *,
    offset: float = 0.0,
    gate: Tensor | None = None,
    activation: str = "none",
) -> Tensor:
    """Return ``x / rms(x) * (offset + weight) * activation(gate)``, computed in float32 and rounded to `dtype`."""
    tensors = [x, weight] if gate is None else [x, weight, gate]
    fits = weight.dim() == 1 and weight.shape[0] == x.shape[-1] and (gate is None or gate.shape == x.shape)
    # What an element-wise operation returns is laid out like its inputs; where that is not row after row, torch's own operations know how.
    if not fits or any(t.dtype not in _DTYPES for t in tensors) or not _is_row_after_row(x):
        return _composed(x, weight, gate, epsilon, dtype, offset, activation)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return _RMSNorm.apply(x, weight, gate, epsilon, dtype, offset, activation)  # type: ignore[no-any-return,no-untyped-call]
    return launch_forward(x, weight, gate, epsilon, dtype, offset, activation)[0]


def _is_row_after_row(x: Tensor) -> bool:
    """Whether the result of an element-wise operation on `x` is contiguous; `x` itself may have gaps."""
    return x.is_contiguous() or torch.empty_like(x).is_contiguous()


def _composed(x: Tensor, weight: Tensor, gate: Tensor | None, epsilon: float, dtype: torch.dtype, offset: float, activation: str) -> Tensor:
    """The same from operations that autograd differentiates as often as one likes."""
    wide = x.to(torch.float32)
    result = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon) * (weight.to(torch.float32) + offset)
    if gate is not None:
        result = result * (torch.sigmoid if activation == "sigmoid" else F.silu)(gate.to(torch.float32))
    return result.to(dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, gate: Tensor | None, epsilon: float, dtype: torch.dtype, offset: float, activation: str
    ) -> Tensor:
        y, reciprocals, _ = launch_forward(x, weight, gate, epsilon, dtype, offset, activation)
        ctx.save_for_backward(x, weight, gate, reciprocals)
        ctx.constants = epsilon, dtype, offset, activation
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, gate, reciprocals = ctx.saved_tensors
        epsilon, dtype, offset, activation = ctx.constants
        if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate these gradients
            inputs = [tensor for tensor in (x, weight, gate) if tensor is not None and tensor.requires_grad]
            y = _composed(x, weight, gate, epsilon, dtype, offset, activation)
            found = iter(torch.autograd.grad(y, inputs, grad, create_graph=True))
            wanted = [next(found) if tensor is not None and tensor.requires_grad else None for tensor in (x, weight, gate)]
            return *wanted, None, None, None, None
        return *launch_backward(grad, x, weight, gate, reciprocals, offset, activation), None, None, None, None


def add_and_normalize(
    x: Tensor, other: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the `rms_norm` of the sum of two tensors, and the sum."""
    alike = x.shape == other.shape and x.dtype is other.dtype and weight.dim() == 1 and weight.shape[0] == x.shape[-1]
    fits = alike and x.dtype in _DTYPES and weight.dtype in _DTYPES and not is_long(x.shape[-1])
    # The sum of two tensors is laid out like them; where that is not row after row, torch's own operation knows how.
    if not fits or not (x.is_contiguous() and other.is_contiguous()):
        total = x + other
        return rms_norm(total, weight, epsilon, dtype, offset=offset), total
    if torch.is_grad_enabled() and (x.requires_grad or other.requires_grad or weight.requires_grad):
        return _AddRMSNorm.apply(x, other, weight, epsilon, dtype, offset)  # type: ignore[no-any-return,no-untyped-call]
    y, _, total = launch_forward(x, weight, None, epsilon, dtype, offset, "none", other)
    return y, total


class _AddRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, other: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype, offset: float
    ) -> tuple[Tensor, Tensor]:
        y, reciprocals, total = launch_forward(x, weight, None, epsilon, dtype, offset, "none", other)
        ctx.save_for_backward(x, other, total, weight, reciprocals)
        ctx.constants = epsilon, dtype, offset
        return y, total

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        x, other, total, weight, reciprocals = ctx.saved_tensors
        epsilon, dtype, offset = ctx.constants
        if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate these gradients
            inputs = [tensor for tensor in (x, other, weight) if tensor.requires_grad]
            again = x + other
            outputs = _composed(again, weight, None, epsilon, dtype, offset, "none"), again
            found = iter(torch.autograd.grad(outputs, inputs, (grad, grad_total), create_graph=True, allow_unused=True))
            wanted = [next(found) if tensor.requires_grad else None for tensor in (x, other, weight)]
            return *wanted, None, None, None
        grad_sum, grad_weight, _ = launch_backward(grad, total, weight, None, reciprocals, offset, "none", grad_total)
        return grad_sum, grad_sum, grad_weight, None, None, None
