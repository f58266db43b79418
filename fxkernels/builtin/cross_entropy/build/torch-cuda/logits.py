"""Cross entropy of logits that are there already: no copy of them in float32, and their gradient is written once, in their own dtype."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .launches import losses_of, write_gradient

__all__ = ["cross_entropy_sum"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def cross_entropy_sum(logits: Tensor, target: Tensor, ignore: int) -> Tensor:
    """Return the sum of the losses of the rows of `logits`, in float32."""
    if logits.dtype not in _DTYPES:
        return _composed(logits, target, ignore)
    if torch.is_grad_enabled() and logits.requires_grad:
        return _CrossEntropy.apply(logits, target, ignore)  # type: ignore[no-any-return,no-untyped-call]
    return losses_of(logits, target, ignore)[0].sum()


def _composed(logits: Tensor, target: Tensor, ignore: int) -> Tensor:
    return F.cross_entropy(logits.to(torch.float32), target, ignore_index=ignore, reduction="sum")


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, ignore: int) -> Tensor:
        losses, logarithms = losses_of(logits, target, ignore)
        ctx.save_for_backward(logits, target, logarithms)
        ctx.ignore = ignore
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, target, logarithms = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate this gradient
            return torch.autograd.grad(_composed(logits, target, ctx.ignore), logits, grad, create_graph=True)[0], None, None
        grad_logits = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        write_gradient(logits, target, logarithms, grad, ctx.ignore, out=grad_logits)
        return grad_logits, None, None
