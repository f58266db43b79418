"""A norm with a backward by hand, from which wrong ones are made by one change each, and how layers are made of functions."""

import torch
from torch import nn


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


def plain(self, x):
    """The layer's own function, differentiated by autograd."""
    return norm(x, self.weight, self.variance_epsilon)[0]


def dense_like(x):
    """What a kernel reads that takes `x` for contiguous; `x` where there is nothing else to read."""
    room = x.untyped_storage().nbytes() // x.element_size() - x.storage_offset()
    return x.as_strided(x.shape, torch.empty(x.shape).stride()) if x.numel() <= room else x.flip(0)


def layer(function):
    """A layer whose forward is the function of self and the input."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return function(self, hidden_states)

    return type(function.__name__, (nn.Module,), {"forward": forward, "__module__": function.__module__, "__doc__": function.__doc__})


def applied(name, function, doc=None):
    """A layer that applies an autograd function to input, weight and epsilon."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return function.apply(hidden_states, self.weight, self.variance_epsilon)

    return type(name, (nn.Module,), {"forward": forward, "__module__": function.__module__, "__doc__": doc})
