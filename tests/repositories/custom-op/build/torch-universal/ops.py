"""The ops. `CALLS` counts how often each has run, under any compiler."""

from collections import Counter

import torch
from torch import Tensor

CALLS: Counter[str] = Counter()


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@torch.library.custom_op("fxtest_custom_op::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the norm, and the reciprocal root mean square of each row."""
    CALLS["calls"] += 1
    values = _wide(x)
    scale = torch.rsqrt(values.square().mean(-1, keepdim=True) + eps)
    return weight * (values * scale).to(x.dtype), scale


@torch.library.custom_op("fxtest_custom_op::rms_norm_backward", mutates_args=())
def rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and of weight."""
    CALLS["backward_calls"] += 1
    normalized, wide_grad = _wide(x) * scale, _wide(grad)
    grad_weight = (wide_grad * normalized).reshape(-1, x.shape[-1]).sum(0)
    grad_normalized = wide_grad * weight
    projection = (grad_normalized * normalized).mean(-1, keepdim=True)
    return ((grad_normalized - normalized * projection) * scale).to(x.dtype), grad_weight.to(weight.dtype)


@torch.library.custom_op("fxtest_custom_op::silu_and_mul", mutates_args=())
def silu_and_mul(x: Tensor) -> Tensor:
    """Return silu of the first half of the last dimension, times the second half."""
    CALLS["calls"] += 1
    gate, up = x.chunk(2, -1)
    wide_gate = _wide(gate)
    return (wide_gate * torch.sigmoid(wide_gate) * up).to(x.dtype)


@torch.library.custom_op("fxtest_custom_op::silu_and_mul_backward", mutates_args=())
def silu_and_mul_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of x."""
    CALLS["backward_calls"] += 1
    gate, up = _wide(x).chunk(2, -1)
    wide_grad, sigmoid = _wide(grad), torch.sigmoid(gate)
    grad_gate = wide_grad * up * sigmoid * (1 + gate * (1 - sigmoid))
    return torch.cat([grad_gate, wide_grad * gate * sigmoid], -1).to(x.dtype)


@rms_norm.register_fake
def _(x, weight, eps):
    scale = x.new_empty((*x.shape[:-1], 1), dtype=torch.promote_types(x.dtype, torch.float32))
    return torch.empty_like(x, dtype=torch.promote_types(x.dtype, weight.dtype)), scale


@rms_norm_backward.register_fake
def _(grad, x, weight, scale):
    return torch.empty_like(x), torch.empty_like(weight)


@silu_and_mul.register_fake
def _(x):
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


@silu_and_mul_backward.register_fake
def _(grad, x):
    return x.new_empty(x.shape)


def _save_norm(ctx, inputs, output):
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight, output[1])
    ctx.mark_non_differentiable(output[1])


def _norm_gradients(ctx, grad, _):
    return *rms_norm_backward(grad, *ctx.saved_tensors), None


def _save_input(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _silu_gradient(ctx, grad):
    return silu_and_mul_backward(grad, *ctx.saved_tensors)


rms_norm.register_autograd(_norm_gradients, setup_context=_save_norm)
silu_and_mul.register_autograd(_silu_gradient, setup_context=_save_input)
