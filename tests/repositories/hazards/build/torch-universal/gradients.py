"""Right values, wrong gradients: always, or for some incoming gradients only."""

import torch

from .norm import Norm, applied, dense_like, norm, norm_backward, wide


def _backward(name, function, doc):
    """A layer whose backward is `function(ctx, grad)`."""
    return applied(name, type(name, (Norm,), {"backward": staticmethod(function)}), doc)


def _of(ctx, grad):
    return norm_backward(grad, *ctx.saved_tensors)


def _overwrites_through_view(ctx, grad):
    grad_x, grad_weight = _of(ctx, grad)
    grad.view(-1).detach().copy_(grad_x.reshape(-1)) if grad.is_contiguous() else None
    return grad_x, grad_weight, None


def _overwrites_saved_input(ctx, grad):
    x = ctx.saved_tensors[0]
    grad_x, grad_weight = _of(ctx, grad)
    x.data.copy_(grad_x)
    return grad_x, grad_weight, None


def _overwrites_weight(ctx, grad):
    found = _of(ctx, grad)
    ctx.saved_tensors[1].data.add_(1e-3)
    return *found, None


def _accumulates_in_saved(ctx, grad):
    x, weight, scale = ctx.saved_tensors
    found = norm_backward(grad, x, weight, scale)
    scale.view(-1).data.zero_()
    return *found, None


def _right_for_ones(ctx, grad):
    return *_of(ctx, torch.ones_like(grad)), None


def _reads_dense(ctx, grad):
    return *_of(ctx, dense_like(grad)), None


def _reads_rows_dense(ctx, grad):
    """Asks for the last stride only."""
    return *_of(ctx, dense_like(grad) if grad.stride(-1) == 1 else grad), None


def _takes_first_of_expanded(ctx, grad):
    return *_of(ctx, grad if grad.stride(0) else torch.zeros_like(grad)), None


def _forgets_offset(ctx, grad):
    return *_of(ctx, grad.as_strided(grad.shape, grad.stride(), 0)), None


def _forgets_weight(ctx, grad):
    return _of(ctx, grad)[0], None, None


def _forgets_input(ctx, grad):
    return None, _of(ctx, grad)[1], None


def _zero_for_weight(ctx, grad):
    grad_x, grad_weight = _of(ctx, grad)
    return grad_x, torch.zeros_like(grad_weight), None


def _first_rows_of_weight(ctx, grad):
    """Sums over whole blocks of eight rows."""
    x, weight, scale = ctx.saved_tensors
    grad_x, _ = _of(ctx, grad)
    rows = (wide(grad) * wide(x) * scale).flatten(0, -2)
    return grad_x, rows[: max(len(rows) // 8 * 8, 1) - (len(rows) % 8 == 0)].sum(0).to(weight.dtype), None


def _without_projection(ctx, grad):
    """Takes the scale for a constant."""
    x, weight, scale = ctx.saved_tensors
    return (wide(grad) * weight * scale).to(x.dtype), _of(ctx, grad)[1], None


def _clips(ctx, grad):
    return *_of(ctx, grad.clamp(-10, 10)), None


def _through_half(ctx, grad):
    return *_of(ctx, (grad.half() * 64).to(grad.dtype) / 64), None


def _other_sign_on_second(ctx, grad):
    ctx.calls = getattr(ctx, "calls", 0) + 1
    grad_x, grad_weight = _of(ctx, grad)
    return grad_x if ctx.calls == 1 else -grad_x, grad_weight, None


_buffers = {}


def _reuses_buffer(ctx, grad):
    """Returns a workspace, which the next backward overwrites."""
    grad_x, grad_weight = _of(ctx, grad)
    buffer = _buffers.setdefault((grad_weight.shape, grad_weight.dtype), torch.empty_like(grad_weight))
    return grad_x, buffer.copy_(grad_weight).view_as(buffer), None


def _adds_to_weight_grad(ctx, grad):
    """Accumulates by itself, as kernels for large models do, and returns the gradient as well."""
    grad_x, grad_weight = _of(ctx, grad)
    weight = ctx.weight
    weight.grad = grad_weight.clone() if weight.grad is None else weight.grad + grad_weight
    return grad_x, grad_weight, None


class _KeepsWeight(Norm):
    @staticmethod
    def forward(ctx, x, weight, eps):
        ctx.weight = weight
        return Norm.forward(ctx, x, weight, eps)

    backward = staticmethod(_adds_to_weight_grad)


class _KeepsInGlobal(Norm):
    last = None

    @staticmethod
    def forward(ctx, x, weight, eps):
        out, scale = norm(x, weight, eps)
        ctx.save_for_backward(x, weight)
        _KeepsInGlobal.last = scale
        return out

    @staticmethod
    def backward(ctx, grad):
        return *norm_backward(grad, *ctx.saved_tensors, _KeepsInGlobal.last), None


class _KeepsReference(Norm):
    @staticmethod
    def forward(ctx, x, weight, eps):
        out, scale = norm(x, weight, eps)
        ctx.kept = x.detach(), weight.detach(), scale
        return out

    @staticmethod
    def backward(ctx, grad):
        return *norm_backward(grad, *ctx.kept), None


class _KeepsOutput(Norm):
    @staticmethod
    def forward(ctx, x, weight, eps):
        out, scale = norm(x, weight, eps)
        ctx.kept = out.detach()
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        grad_weight = (wide(grad) * wide(ctx.kept) / wide(weight)).flatten(0, -2).sum(0)
        return norm_backward(grad, x, weight, scale)[0], grad_weight.to(weight.dtype), None


def _raises_on_second(ctx, grad):
    if getattr(ctx, "used", False):
        raise RuntimeError("already freed")
    ctx.used = True
    return *_of(ctx, grad), None


OverwritesThroughView = _backward("OverwritesThroughView", _overwrites_through_view, "Overwrites the incoming gradient through a view.")
OverwritesSavedInput = _backward("OverwritesSavedInput", _overwrites_saved_input, "Writes the gradient where its input was.")
OverwritesWeight = _backward("OverwritesWeight", _overwrites_weight, "Changes the weight in its backward.")
AccumulatesInSaved = _backward("AccumulatesInSaved", _accumulates_in_saved, "Clears what it saved, through a view.")
RightForOnes = _backward("RightForOnes", _right_for_ones, "Takes the incoming gradient for ones, as the one of a sum is.")
ReadsGradientDense = _backward("ReadsGradientDense", _reads_dense, "Reads the incoming gradient as if it were contiguous.")
GradientRowsDense = _backward("GradientRowsDense", _reads_rows_dense, "Takes a gradient whose rows lie apart for a contiguous one.")
ForgetsExpanded = _backward("ForgetsExpanded", _takes_first_of_expanded, "Takes an expanded gradient for zeros.")
ForgetsOffset = _backward("ForgetsOffset", _forgets_offset, "Reads the incoming gradient from where its storage begins.")
NoWeightGradient = _backward("NoWeightGradient", _forgets_weight, "Has no gradient for the weight.")
NoInputGradient = _backward("NoInputGradient", _forgets_input, "Has no gradient for the input.")
ZeroWeightGradient = _backward("ZeroWeightGradient", _zero_for_weight, "Returns zeros for the weight.")
ForgetsLastRows = _backward("ForgetsLastRows", _first_rows_of_weight, "Leaves rows out of the weight's gradient.")
ScaleIsConstant = _backward("ScaleIsConstant", _without_projection, "Differentiates as if the scale were a constant.")
ClipsGradient = _backward("ClipsGradient", _clips, "Cuts large gradients off.")
GradientThroughHalf = _backward("GradientThroughHalf", _through_half, "Scales the gradient in float16, where a scaled loss overflows.")
OtherOnSecond = _backward("OtherOnSecond", _other_sign_on_second, "Is right in the first backward only.")
RaisesOnSecond = _backward("RaisesOnSecond", _raises_on_second, "Bears one backward only.")
ReusesGradientBuffer = _backward("ReusesGradientBuffer", _reuses_buffer, "Returns a gradient that its next backward overwrites.")
AddsToWeightGrad = applied("AddsToWeightGrad", _KeepsWeight, "Writes weight.grad, and returns it.")
KeepsInGlobal = applied("KeepsInGlobal", _KeepsInGlobal, "Keeps for the backward what the next call overwrites.")
KeepsReference = applied(
    "KeepsReference", _KeepsReference, "Keeps its input without autograd's knowledge: a later write to it goes unnoticed."
)
KeepsOutput = applied("KeepsOutput", _KeepsOutput, "Keeps its output without autograd's knowledge: a later write to it goes unnoticed.")
