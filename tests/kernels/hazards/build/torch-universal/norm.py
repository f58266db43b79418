"""A norm with a backward by hand, from which wrong ones are made by one change each."""

import torch


def wide(x):
    return x.to(torch.promote_types(x.dtype, torch.float32))


def norm(x, weight, eps):
    values = wide(x)
    scale = torch.rsqrt(values.square().mean(-1, keepdim=True) + eps)
    return weight * (values * scale).to(x.dtype), scale


def norm_backward(grad, x, weight, scale):
    normalized, wide_grad = wide(x) * scale, wide(grad)
    grad_weight = (wide_grad * normalized).reshape(-1, x.shape[-1]).sum(0)
    grad_normalized = wide_grad * weight
    projection = (grad_normalized * normalized).mean(-1, keepdim=True)
    return ((grad_normalized - normalized * projection) * scale).to(x.dtype), grad_weight.to(weight.dtype)


class Norm(torch.autograd.Function):
    """Right. The wrong ones override one of the two."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        out, scale = norm(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    def backward(ctx, grad):
        return *norm_backward(grad, *ctx.saved_tensors), None


class OverwritesGradient(Norm):
    @staticmethod
    def backward(ctx, grad):
        grad_x, grad_weight = norm_backward(grad, *ctx.saved_tensors)
        return grad.copy_(grad_x), grad_weight, None


class OverwritesSaved(Norm):
    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        grad_x, grad_weight = norm_backward(grad, x, weight, scale)
        scale.detach().data.mul_(2)  # behind autograd's back, as a C++ kernel does it
        return grad_x, grad_weight, None


class Identity(Norm):
    @staticmethod
    def backward(ctx, grad):
        _, grad_weight = norm_backward(grad, *ctx.saved_tensors)
        return grad.clone(), grad_weight, None


class SumsInHalf(Norm):
    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        grad_x, _ = norm_backward(grad, x, weight, scale)
        rows = (grad * (wide(x) * scale).to(x.dtype)).reshape(-1, x.shape[-1])
        total = torch.zeros_like(rows[0])
        for row in rows.split(max(len(rows) // 2048, 1)):
            total += row.sum(0)
        return grad_x, total.to(weight.dtype), None


class ExpectsDenseGradient(Norm):
    @staticmethod
    def backward(ctx, grad):
        dense = grad.as_strided(grad.shape, torch.empty(grad.shape).stride()) if grad.numel() <= _room(grad) else grad.flip(0)
        return *norm_backward(dense, *ctx.saved_tensors), None


def _room(grad):
    return grad.untyped_storage().nbytes() // grad.element_size()


class KeepsInGlobal(Norm):
    last = None

    @staticmethod
    def forward(ctx, x, weight, eps):
        out, scale = norm(x, weight, eps)
        ctx.save_for_backward(x, weight)
        KeepsInGlobal.last = scale
        return out

    @staticmethod
    def backward(ctx, grad):
        return *norm_backward(grad, *ctx.saved_tensors, KeepsInGlobal.last), None


class ForgetsWeight(Norm):
    @staticmethod
    def backward(ctx, grad):
        return norm_backward(grad, *ctx.saved_tensors)[0], None, None
