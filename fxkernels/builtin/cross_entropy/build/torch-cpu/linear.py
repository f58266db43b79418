"""Linear layer and cross entropy in one: the logits exist for some tokens at a time, and so does their gradient, in the same memory.

The gradients of hidden states and weight are computed in the forward, chunk by chunk, while the logits are there; the backward only scales
them. So three matrix products in all, as autograd has, and no fourth that computes the logits again.

For t tokens, a vocabulary of v and width w, autograd holds several tensors of t * v, some of them in float32. Here it is one of
`_CHUNK` logits, and twice v * w in float32 for the gradient of the weight, which is accumulated in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .rows import losses_of, write_gradient

__all__ = ["linear_cross_entropy"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_CHUNK = 1 << 25
"""Logits that exist at a time: 256 tokens of a vocabulary of 128k, 128 MB in float32."""


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
        wanted = [t is not None and t.requires_grad for t in (hidden, weight, bias)]
        return _LinearCrossEntropy.apply(hidden, weight, bias, target, scale, ignore_index, wanted)  # type: ignore[no-any-return,no-untyped-call]
    return _computed(hidden, weight, bias, target, scale, ignore_index, [False] * 3)[0]


def _composed(hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, scale: Tensor, ignore: int) -> Tensor:
    """The same from operations that autograd differentiates as often as one likes."""
    logits = F.linear(hidden, weight, bias).to(torch.float32)
    return F.cross_entropy(logits, target, ignore_index=ignore, reduction="sum") * scale


def _computed(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, scale: Tensor, ignore: int, wanted: list[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    """The loss, and those of its gradients that are wanted."""
    chunk = max(1, _CHUNK // weight.shape[0])
    losses: list[Tensor] = []
    of_hidden: list[Tensor] = []
    of_weight: Tensor | None = None
    of_bias: Tensor | None = None
    # Counted, so that a traced size is only known by the number of its chunks.
    for start in range(0, chunk * ((hidden.shape[0] + chunk - 1) // chunk), chunk):
        rows, targets = hidden[start : start + chunk], target[start : start + chunk]
        logits = F.linear(rows, weight, bias)
        found, logarithms = losses_of(logits, targets, ignore)
        losses.append(found)
        if not any(wanted):
            continue
        write_gradient(logits, targets, logarithms, scale, ignore)  # over the logits: nobody needs them any more
        if wanted[0]:
            of_hidden.append(logits @ weight)
        if wanted[1]:
            product = _wide_product(logits.t(), rows)
            of_weight = product if of_weight is None else of_weight.add_(product)
        if wanted[2]:
            total = logits.sum(0, dtype=torch.float32)
            of_bias = total if of_bias is None else of_bias.add_(total)
    if not losses:
        return hidden.new_zeros((), dtype=torch.float32) * scale, [
            torch.zeros_like(t) if t is not None else None for t in (hidden, weight, bias)
        ]
    loss = torch.cat(losses).sum() * scale
    gradients = [torch.cat(of_hidden) if of_hidden else None, *(None if t is None else t.to(weight.dtype) for t in (of_weight, of_bias))]
    return loss, gradients


def _wide_product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product in float32, of half-precision matrices too: it is one term of a sum."""
    if a.dtype is torch.float32:
        return a @ b
    return a.to(torch.float32) @ b.to(torch.float32)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, scale: Tensor, ignore: int, wanted: list[bool]
    ) -> Tensor:
        loss, gradients = _computed(hidden, weight, bias, target, scale, ignore, wanted)
        ctx.save_for_backward(hidden, weight, bias, target, scale, *gradients)
        ctx.ignore = ignore
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, target, scale, *gradients = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate these gradients
            inputs = [tensor for tensor in (hidden, weight, bias) if tensor is not None and tensor.requires_grad]
            loss = _composed(hidden, weight, bias, target, scale, ctx.ignore)
            found = iter(torch.autograd.grad(loss, inputs, grad, create_graph=True))
            wanted = [next(found) if tensor is not None and tensor.requires_grad else None for tensor in (hidden, weight, bias)]
            return *wanted, None, None, None, None
        # New tensors: what is saved is there for a second backward.
        scaled = [None if saved is None else (saved * grad).to(saved.dtype) for saved in gradients]
        return *scaled, None, None, None, None
