"""The kernel layer `LinearCrossEntropyLoss`, for torch's own class of that name (2.13) and others with its attributes."""

from __future__ import annotations

from torch import Tensor, nn

from .linear import linear_cross_entropy

__all__ = ["LinearCrossEntropyLoss"]


class LinearCrossEntropyLoss(nn.Module):
    """`torch.nn.LinearCrossEntropyLoss` for class indices: the logits of all tokens never exist at once, nor does their gradient."""

    has_backward = True
    can_torch_compile = True

    linear: nn.Linear
    ignore_index: int | None
    reduction: str

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        ignore = -100 if self.ignore_index is None else self.ignore_index
        loss = linear_cross_entropy(input, self.linear.weight, target, bias=self.linear.bias, ignore_index=ignore, reduction=self.reduction)
        return loss.to(input.dtype)
