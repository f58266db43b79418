"""LayerNorm as a function of tensors: which calls the kernels cover, and the gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .launches import is_long, launch_backward, launch_forward

__all__ = ["add_and_normalize", "layer_norm"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def layer_norm(x: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, epsilon: float) -> Tensor:
    """Return ``torch.nn.functional.layer_norm(x, shape, weight, bias, epsilon)``, computed in float32 and rounded once."""
    parameters = [p for p in (weight, bias) if p is not None]
    fits = tuple(x.shape[x.dim() - len(shape) :]) == tuple(shape) and all(tuple(p.shape) == tuple(shape) for p in parameters)
    if not fits or x.dtype not in _DTYPES or any(p.dtype is not x.dtype for p in parameters):
        return F.layer_norm(x, shape, weight, bias, epsilon)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *parameters)):
        return _LayerNorm.apply(x, tuple(shape), weight, bias, epsilon)  # type: ignore[no-any-return,no-untyped-call]
    return launch_forward(x, math.prod(shape), weight, bias, epsilon)[0]


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, epsilon: float) -> Tensor:
        y, means, reciprocals, _ = launch_forward(x, math.prod(shape), weight, bias, epsilon)
        ctx.save_for_backward(x, weight, bias, means, reciprocals)
        ctx.constants = shape, epsilon
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, means, reciprocals = ctx.saved_tensors
        shape, epsilon = ctx.constants
        if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate these gradients
            inputs = [tensor for tensor in (x, weight, bias) if tensor is not None and tensor.requires_grad]
            found = iter(torch.autograd.grad(F.layer_norm(x, shape, weight, bias, epsilon), inputs, grad, create_graph=True))
            wanted = [next(found) if tensor is not None and tensor.requires_grad else None for tensor in (x, weight, bias)]
            return wanted[0], None, wanted[1], wanted[2], None
        grad_x, grad_weight, grad_bias = launch_backward(grad, x, math.prod(shape), weight, bias, means, reciprocals)
        return grad_x, None, grad_weight, grad_bias, None


def add_and_normalize(
    x: Tensor, other: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Return the `layer_norm` of the sum of two tensors, and the sum."""
    parameters = [p for p in (weight, bias) if p is not None]
    alike = x.shape == other.shape and x.dtype is other.dtype and all(tuple(p.shape) == shape and p.dtype is x.dtype for p in parameters)
    fits = alike and x.dtype in _DTYPES and tuple(x.shape[x.dim() - len(shape) :]) == shape and not is_long(math.prod(shape))
    # The sum of two tensors is laid out like them; where that is not row after row, torch's own operation knows how.
    if not fits or not (x.is_contiguous() and other.is_contiguous()):
        total = x + other
        return layer_norm(total, shape, weight, bias, epsilon), total
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, other, *parameters)):
        return _AddLayerNorm.apply(x, other, shape, weight, bias, epsilon)  # type: ignore[no-any-return,no-untyped-call]
    y, _, _, total = launch_forward(x, math.prod(shape), weight, bias, epsilon, other)
    return y, total


class _AddLayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, other: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        y, means, reciprocals, total = launch_forward(x, math.prod(shape), weight, bias, epsilon, other)
        ctx.save_for_backward(x, other, total, weight, bias, means, reciprocals)
        ctx.constants = shape, epsilon
        return y, total

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        x, other, total, weight, bias, means, reciprocals = ctx.saved_tensors
        shape, epsilon = ctx.constants
        if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate these gradients
            inputs = [tensor for tensor in (x, other, weight, bias) if tensor is not None and tensor.requires_grad]
            again = x + other
            outputs = F.layer_norm(again, shape, weight, bias, epsilon), again
            found = iter(torch.autograd.grad(outputs, inputs, (grad, grad_total), create_graph=True, allow_unused=True))
            wanted = [next(found) if tensor is not None and tensor.requires_grad else None for tensor in (x, other, weight, bias)]
            return wanted[0], wanted[1], None, wanted[2], wanted[3], None
        grad_sum, grad_weight, grad_bias = launch_backward(grad, total, math.prod(shape), weight, bias, means, reciprocals, grad_total)
        return grad_sum, grad_sum, None, grad_weight, grad_bias, None
