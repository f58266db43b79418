"""The ops. A program has a whole row, so rows may have up to 65,536 elements."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton


@triton.jit
def _norm_kernel(x, weight, y, scale, n, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    values = tl.load(x + row * n + columns, mask=columns < n, other=0.0)
    wide = values.to(tl.float32)
    factor = 1 / tl.sqrt(tl.sum(wide * wide) / n + eps)
    tl.store(scale + row, factor)
    normalized = (wide * factor).to(values.dtype).to(tl.float32)
    tl.store(y + row * n + columns, normalized * tl.load(weight + columns, mask=columns < n).to(tl.float32), mask=columns < n)


@triton.jit
def _norm_backward_kernel(grad, x, weight, scale, grad_x, products, n, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < n
    factor = tl.load(scale + row)
    normalized = tl.load(x + row * n + columns, mask=inside, other=0.0).to(tl.float32) * factor
    incoming = tl.load(grad + row * n + columns, mask=inside, other=0.0).to(tl.float32)
    outgoing = incoming * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    projection = tl.sum(outgoing * normalized) / n
    tl.store(grad_x + row * n + columns, (outgoing - normalized * projection) * factor, mask=inside)
    tl.store(products + row * n + columns, incoming * normalized, mask=inside)


@triton.jit
def _silu_kernel(x, y, half, total, BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row, column = index // half, index % half
    gate = tl.load(x + row * 2 * half + column, mask=index < total, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * half + half + column, mask=index < total, other=0.0).to(tl.float32)
    tl.store(y + index, gate * tl.sigmoid(gate) * up, mask=index < total)


@triton_op("fxtest_triton_op::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the norm, and the reciprocal root mean square of each row."""
    n = x.shape[-1]
    x = x.contiguous()
    y = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype), device=x.device)
    scale = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    wrap_triton(_norm_kernel)[(scale.numel(),)](x, weight, y, scale, n, eps, BLOCK=triton.next_power_of_2(n))
    return y, scale


@triton_op("fxtest_triton_op::rms_norm_backward", mutates_args=())
def rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and of weight."""
    n = x.shape[-1]
    grad, x = grad.contiguous(), x.contiguous()
    grad_x, products = torch.empty_like(x), torch.empty_like(x, dtype=torch.float32)
    wrap_triton(_norm_backward_kernel)[(scale.numel(),)](grad, x, weight, scale, grad_x, products, n, BLOCK=triton.next_power_of_2(n))
    return grad_x, products.reshape(-1, n).sum(0).to(weight.dtype)


@triton_op("fxtest_triton_op::silu_and_mul", mutates_args=())
def silu_and_mul(x: Tensor) -> Tensor:
    """Return silu of the first half of the last dimension, times the second half."""
    x = x.contiguous()
    y = torch.empty((*x.shape[:-1], x.shape[-1] // 2), dtype=x.dtype, device=x.device)
    wrap_triton(_silu_kernel)[lambda meta: (triton.cdiv(y.numel(), meta["BLOCK"]),)](x, y, y.shape[-1], y.numel(), BLOCK=256)
    return y


def _save_norm(ctx, inputs, output):
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight, output[1])


def _norm_gradients(ctx, grad, _):
    return *rms_norm_backward(grad, *ctx.saved_tensors), None


def _save_input(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _silu_gradient(ctx, grad):
    (x,) = ctx.saved_tensors
    gate, up = x.float().chunk(2, -1)
    sigmoid = torch.sigmoid(gate)
    return torch.cat([grad * up * sigmoid * (1 + gate * (1 - sigmoid)), grad * gate * sigmoid], -1).to(x.dtype)


rms_norm.register_autograd(_norm_gradients, setup_context=_save_norm)
silu_and_mul.register_autograd(_silu_gradient, setup_context=_save_input)
