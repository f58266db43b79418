"""Linear layer and cross entropy in one: the logits exist for some tokens, or some of the vocabulary, at a time; so does their gradient.

For t tokens, a vocabulary of v and width w, autograd holds several tensors of t v values, some of them in float32. Here the forward
computes the logits of some tokens after others, and keeps but the logarithm of each token's sum of exponentials. The backward computes them
again, one slab of the vocabulary after another and for all tokens, and puts their gradient into the same memory. So the slab's part of the
weight's gradient is one matrix product over all tokens: it is summed in float32 inside of the product, rounded once, and written once. What
is held at a time is that gradient, v w values, one slab of logits, and the gradient of the hidden states in float32, t w values.

That takes four matrix products of 2 t v w operations, where autograd takes three. Each logit is written twice, and once more as
its gradient, and read four times, twice of them by products.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .launches import losses_of, write_gradient

__all__ = ["linear_cross_entropy"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_FORWARD, _BACKWARD = 1 << 28, 1 << 27
"""Logits that exist at a time: 2048 tokens of a vocabulary of 128k, or 8192 tokens of an eighth of it; half and a quarter of a gigabyte in
half precision. Products of that size run at nearly full speed. The forward takes more, since it has no gradients beside them."""

_TILE = 256
"""What a matrix product is cut into: parts are multiples of it, so that no product has a tile that is nearly empty."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    num_items: Tensor | int | None = None,
) -> Tensor:
    """Return ``cross_entropy(linear(hidden, weight, bias), target)`` as one number in float32.

    Args:
        hidden: Hidden states, (..., width).
        weight: (vocabulary, width), of the same dtype.
        target: Whole numbers of the shape of `hidden` without its last dimension.
        bias: (vocabulary,).
        ignore_index: The target that counts for nothing.
        reduction: ``"mean"`` over the targets that count, or ``"sum"``.
        num_items: What the sum is divided by; with it, `reduction` is not asked.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is 'mean' or 'sum', not {reduction!r}: a loss for each token would need its own gradients")
    hidden, target = hidden.reshape(-1, hidden.shape[-1]), target.reshape(-1)
    if num_items is None:
        counted = (target != ignore_index).sum() if reduction == "mean" else 1
    else:
        counted = num_items
    scale = torch.ones((), dtype=torch.float32, device=hidden.device) / counted
    tensors = [t for t in (hidden, weight, bias) if t is not None]
    if hidden.dtype not in _DTYPES or any(t.dtype is not hidden.dtype for t in tensors):
        return _composed(hidden, weight, bias, target, scale, ignore_index)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return _LinearCrossEntropy.apply(hidden, weight, bias, target, scale, ignore_index)  # type: ignore[no-any-return,no-untyped-call]
    return _losses(hidden, weight, bias, target, ignore_index)[0].sum() * scale


def _composed(hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, scale: Tensor, ignore: int) -> Tensor:
    """The same from operations that autograd differentiates as often as one likes."""
    logits = F.linear(hidden, weight, bias).to(torch.float32)
    return F.cross_entropy(logits, target, ignore_index=ignore, reduction="sum") * scale


def _parts(length: int, other: int, logits: int) -> list[slice]:
    """Cuts one side of a matrix of logits into parts of about equal length, each of at most so many logits; `other` is the other side."""
    longest = max(_TILE, logits // max(1, other) // _TILE * _TILE)
    count = -(-length // longest)
    step = -(-length // max(1, count) // _TILE) * _TILE if count > 1 else length
    return [slice(start, min(start + step, length)) for start in range(0, length, max(1, step))]


def _losses(hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
    """The losses of the tokens, and the logarithms of their sums of exponentials, in float32."""
    parts = _parts(hidden.shape[0], weight.shape[0], _FORWARD)
    found = [losses_of(F.linear(hidden[part], weight, bias), target[part], ignore) for part in parts]
    if not found:
        return (hidden.new_zeros(0, dtype=torch.float32),) * 2
    return torch.cat([losses for losses, _ in found]), torch.cat([logarithms for _, logarithms in found])


def _gradients(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    logarithms: Tensor,
    scale: Tensor,
    ignore: int,
    wanted: tuple[bool, ...],
) -> list[Tensor | None]:
    """The gradients of hidden states, weight and bias that are wanted."""
    of_hidden: Tensor | None = None
    of_weight = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device) if wanted[1] else None
    of_bias = torch.empty(weight.shape[0], dtype=weight.dtype, device=weight.device) if wanted[2] else None
    for part in _parts(weight.shape[0], hidden.shape[0], _BACKWARD):
        change = F.linear(hidden, weight[part], None if bias is None else bias[part])
        write_gradient(change, target, logarithms, scale, ignore, first=part.start)  # over the logits, which nobody needs any more
        if wanted[0]:
            product = _wide_product(change, weight[part])
            of_hidden = product if of_hidden is None else of_hidden.add_(product)
        if of_weight is not None:
            torch.mm(change.t(), hidden, out=of_weight[part])
        if of_bias is not None:
            of_bias[part] = change.sum(0, dtype=torch.float32)
        del change  # else the next slab would be made beside this one
    return [None if of_hidden is None else of_hidden.to(hidden.dtype), of_weight, of_bias]


def _wide_product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product in float32, of half-precision matrices too: it is one term of a sum."""
    if a.dtype is torch.float32:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.to(torch.float32) @ b.to(torch.float32)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, scale: Tensor, ignore: int) -> Tensor:
        losses, logarithms = _losses(hidden, weight, bias, target, ignore)
        ctx.save_for_backward(hidden, weight, bias, target, scale, logarithms)
        ctx.ignore = ignore
        return losses.sum() * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, target, scale, logarithms = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate these gradients
            inputs = [tensor for tensor in (hidden, weight, bias) if tensor is not None and tensor.requires_grad]
            loss = _composed(hidden, weight, bias, target, scale, ctx.ignore)
            found = iter(torch.autograd.grad(loss, inputs, grad, create_graph=True))
            wanted = [next(found) if tensor is not None and tensor.requires_grad else None for tensor in (hidden, weight, bias)]
            return *wanted, None, None, None
        return *_gradients(hidden, weight, bias, target, logarithms, scale * grad, ctx.ignore, ctx.needs_input_grad[:3]), None, None, None
