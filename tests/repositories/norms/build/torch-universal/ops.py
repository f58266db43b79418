"""Custom ops: what tracing sees is their fake implementation, what runs is counted."""

import torch

from .counter import CALLS

_NAMESPACE = __name__.partition(".")[0]


def _statistics(x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    wide = x.to(torch.float32)
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return wide * scale, scale


@torch.library.custom_op(f"{_NAMESPACE}::counted_rms_norm", mutates_args=())
def counted_rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Compute RMSNorm and count it."""
    CALLS["CountedRMSNorm"] += 1
    return weight * _statistics(x, eps)[0].to(x.dtype)


@torch.library.custom_op(f"{_NAMESPACE}::counted_rms_norm_backward", mutates_args=())
def _counted_backward(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    CALLS["CountedRMSNorm.backward"] += 1
    normalized, scale = _statistics(x, eps)
    along_rows = tuple(range(x.dim() - 1))
    grad_weight = (grad * normalized.to(x.dtype)).sum(along_rows).to(weight.dtype)
    grad_normalized = (grad * weight).to(torch.float32)
    projection = (grad_normalized * normalized).mean(-1, keepdim=True)
    return (scale * (grad_normalized - normalized * projection)).to(x.dtype), grad_weight


@torch.library.custom_op(f"{_NAMESPACE}::raising_rms_norm", mutates_args=())
def raising_rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Fail as a kernel does that asks for more than the device has."""
    raise RuntimeError("out of shared memory")


@counted_rms_norm.register_fake
@raising_rms_norm.register_fake
def _output(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return torch.empty_like(x, dtype=torch.promote_types(x.dtype, weight.dtype))


@_counted_backward.register_fake
def _gradients(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(x), torch.empty_like(weight)


def _save(ctx, inputs, output):
    x, weight, ctx.eps = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, grad):
    return *_counted_backward(grad, *ctx.saved_tensors, ctx.eps), None


counted_rms_norm.register_autograd(_backward, setup_context=_save)
raising_rms_norm.register_autograd(_backward, setup_context=_save)
