"""The kernel layers of root-mean-square norms: forward in one buffer, backward with one product and two matrix-vector products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["AddRMSNorm", "RMSNorm", "add_rms_norm", "rms_norm"]


def _normalized(hidden_states: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The normalised input and ``1 / rms`` of each row, both in float32 and both new tensors.

    What it saves is memory: one buffer of the input's size where the reference holds three, and above 32 MiB glibc maps each one anew, page
    fault by page fault. In float32 the operations are the reference's in its order, hence the same bits. The other dtypes are bound by
    computing, not by memory, in the sizes of a cache; there the norm of a row is one pass instead of two, and the reciprocal may differ
    from the reference's in its last bits, before it is rounded to the input's dtype.
    """
    if hidden_states.dtype == torch.float32:
        buffer = hidden_states * hidden_states
        reciprocal = buffer.mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        return torch.mul(hidden_states, reciprocal, out=buffer), reciprocal
    buffer = hidden_states.to(torch.float32)
    norm = torch.linalg.vector_norm(buffer, dim=-1, keepdim=True)
    reciprocal = norm.square_().div_(hidden_states.shape[-1]).add_(epsilon).rsqrt_()
    return buffer.mul_(reciprocal), reciprocal


def _scaled(normalized: Tensor, weight: Tensor, dtype: torch.dtype, offset: float) -> Tensor:
    if offset != 0:  # rounded after the weight, as Gemma does
        return normalized.mul_(weight.to(torch.float32) + offset).to(dtype)
    normalized = normalized.to(dtype)
    # A float32 weight on a bfloat16 input promotes the output, as the reference does; only where it does not is the buffer reused.
    if torch.promote_types(dtype, weight.dtype) == dtype:
        return normalized.mul_(weight)
    return weight * normalized


def _composed(hidden_states: Tensor, weight: Tensor, epsilon: float, offset: float) -> Tensor:
    """The same from operations that autograd differentiates as often as one likes."""
    x = hidden_states.to(torch.float32)
    x = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + epsilon)
    if offset != 0:
        return (x * (weight.to(torch.float32) + offset)).to(hidden_states.dtype)
    return weight * x.to(hidden_states.dtype)


class _RMSNormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_states: Tensor, weight: Tensor, epsilon: float, offset: float) -> Tensor:
        normalized, reciprocal = _normalized(hidden_states, epsilon)
        ctx.save_for_backward(hidden_states, weight, reciprocal)
        ctx.constants = epsilon, offset
        # detach: Dynamo of torch 2.11 routes no gradient to a returned tensor that was written in place (pytorch issue 180642).
        return _scaled(normalized, weight, hidden_states.dtype, offset).detach()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Gradients in float32, rounded once at the end.

        With x the input, g the incoming gradient, w the weight, r the reciprocal of a row and n its length:
        ``dw = sum_rows(r * x * g)`` and ``dx = r * (g * w - x * r^2 / n * sum(x * g * w))``. Both sums are matrix-vector products with
        ``x * g``, whose buffer then takes dx. ``mv`` stays in float32 under autocast (seen with torch 2.13), unlike ``matmul``.
        """
        hidden_states, weight, reciprocal = ctx.saved_tensors
        epsilon, offset = ctx.constants
        if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate these gradients
            inputs = [tensor for tensor in (hidden_states, weight) if tensor.requires_grad]
            grads = iter(torch.autograd.grad(_composed(hidden_states, weight, epsilon, offset), inputs, grad_output, create_graph=True))
            return next(grads) if hidden_states.requires_grad else None, next(grads) if weight.requires_grad else None, None, None
        size = hidden_states.shape[-1]
        x, g, w = hidden_states.to(torch.float32), grad_output.to(torch.float32), weight.to(torch.float32)
        product = x * g
        rows = product.reshape(-1, size)
        grad_weight = torch.mv(rows.t(), reciprocal.reshape(-1)).to(weight.dtype) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None, None
        w = w + offset if offset != 0 else w
        factor = torch.mv(rows, w).view_as(reciprocal).mul_(reciprocal).mul_(reciprocal).div_(-size)
        grad_input = torch.mul(x, factor, out=product).addcmul_(g, w).mul_(reciprocal)
        return grad_input.to(hidden_states.dtype), grad_weight, None, None


def _rms_norm(hidden_states: Tensor, weight: Tensor, epsilon: float, offset: float = 0.0) -> Tensor:
    if torch.is_grad_enabled() and (hidden_states.requires_grad or weight.requires_grad):
        return _RMSNormFunction.apply(hidden_states, weight, epsilon, offset)  # type: ignore[no-any-return,no-untyped-call]
    return _scaled(_normalized(hidden_states, epsilon)[0], weight, hidden_states.dtype, offset)


def _of_tensors(x: Tensor, weight: Tensor | None, eps: float | None, offset: float) -> Tensor:
    """With the defaults of `torch.nn.functional.rms_norm`, which takes the epsilon of float32 for half precision too (2.13)."""
    if weight is None:
        weight = torch.ones(x.shape[-1], dtype=x.dtype, device=x.device)
    return _rms_norm(x, weight, torch.finfo(torch.float32).eps if eps is None else eps, offset)


class RMSNorm(nn.Module):
    """Root-mean-square norm as in Llama: normalise in float32, round to the input's dtype, multiply by the weight.

    Stands in for layers that have `weight` (one dimension) and `variance_epsilon`. Rounds where the reference rounds; in float32 the
    output has the reference's bits. Gradients are accumulated in float32 and rounded once.
    """

    has_backward = True
    can_torch_compile = True

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        return _rms_norm(hidden_states, self.weight, self.variance_epsilon)


class AddRMSNorm(nn.Module):
    """The sum of two tensors, and the norm of the sum."""

    has_backward = True
    can_torch_compile = True

    norm: RMSNorm

    def forward(self, hidden_states: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        residual = residual + hidden_states
        return _rms_norm(residual, self.norm.weight, self.norm.variance_epsilon), residual


class rms_norm(nn.Module):  # noqa: N801  (the layer name that mappings use)
    """The norm of a tensor by a weight that is an argument, counted from `offset`."""

    has_backward = True
    can_torch_compile = True

    def forward(self, x: Tensor, weight: Tensor | None = None, eps: float | None = None, offset: float = 0.0) -> Tensor:
        return _of_tensors(x, weight, eps, offset)


class add_rms_norm(nn.Module):  # noqa: N801
    """The sum of two tensors, and the norm of the sum by such a weight."""

    has_backward = True
    can_torch_compile = True

    def forward(
        self, hidden_states: Tensor, residual: Tensor, weight: Tensor | None = None, eps: float | None = None, offset: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        residual = residual + hidden_states
        return _of_tensors(residual, weight, eps, offset), residual
