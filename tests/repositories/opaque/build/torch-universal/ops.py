"""Operators without a fake, as those are that a C++ extension brings; one of them has a backward of its own, in an autograd function."""

import torch

from .counter import CALLS

_NAMESPACE = __name__.partition(".")[0]
_library = torch.library.Library(_NAMESPACE, "DEF")
_library.define("norm(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)")
_library.define("norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor scale) -> (Tensor, Tensor)")
_library.define("double(Tensor x) -> Tensor")


def _norm(x, weight, eps):
    CALLS["norm"] += 1
    scale = torch.rsqrt(x.pow(2).mean(-1) + eps)
    return x * scale[..., None] * weight, scale


def _norm_backward(grad, x, weight, scale):
    CALLS["norm_backward"] += 1
    normalized = x * scale[..., None]
    grad_weight = (grad * normalized).flatten(0, -2).sum(0)
    projected = grad * weight
    return scale[..., None] * (projected - normalized * (projected * normalized).mean(-1, keepdim=True)), grad_weight


_library.impl("norm", _norm, "CPU")
_library.impl("norm_backward", _norm_backward, "CPU")
_library.impl("double", lambda x: x.detach() * 2, "CPU")
norm, norm_backward, double = (getattr(getattr(torch.ops, _NAMESPACE), name) for name in ("norm", "norm_backward", "double"))


class Norm(torch.autograd.Function):
    """Saves two inputs and the scale of each row."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        output, scale = norm(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        ctx.eps = eps
        return output

    @staticmethod
    def backward(ctx, grad):
        assert ctx.eps > 0
        return *norm_backward(grad, *ctx.saved_tensors), None


class StashingNorm(torch.autograd.Function):
    """Puts what its backward needs where torch does not look."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        output, ctx.scale = norm(x, weight, eps)
        ctx.save_for_backward(x, weight)
        return output

    @staticmethod
    def backward(ctx, grad):
        return *norm_backward(grad, *ctx.saved_tensors, ctx.scale), None


class OverwritingNorm(Norm):
    """Its backward leaves nothing as it was: neither the incoming gradient nor what the forward saved."""

    @staticmethod
    def backward(ctx, grad):
        result = (*norm_backward(grad, *ctx.saved_tensors), None)
        for tensor in (grad, *ctx.saved_tensors):
            tensor.numpy().fill(0)
        return result


class Scale(torch.autograd.Function):
    """Keeps a number that it has read from its input."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.largest = x.abs().max().item()
        ctx.save_for_backward(x, weight)
        return x / ctx.largest * weight * ctx.largest

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad * weight / ctx.largest * ctx.largest, (grad * x).flatten(0, -2).sum(0)


class PointerScale(torch.autograd.Function):
    """Its backward takes the strides of its output for those of the incoming gradient, as kernels do that are handed pointers."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad = grad.as_strided(x.shape, x.stride())
        return grad * weight, (grad * x).flatten(0, -2).sum(0)
