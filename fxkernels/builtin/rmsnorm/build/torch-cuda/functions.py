"""RMSNorm as a function of tensors: which calls the kernels cover, and the gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .launches import launch_backward, launch_forward

__all__ = ["rms_norm"]

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
        y, reciprocals = launch_forward(x, weight, gate, epsilon, dtype, offset, activation)
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
