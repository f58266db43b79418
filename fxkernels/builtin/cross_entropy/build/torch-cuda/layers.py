"""The kernel layers: torch's `LinearCrossEntropyLoss` (2.13), the same composition written out, and the loss of transformers' models."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import linear_cross_entropy as loss_of
from .logits import cross_entropy_sum

__all__ = ["ForCausalLMLoss", "LinearCrossEntropyLoss", "linear_cross_entropy"]


class LinearCrossEntropyLoss(nn.Module):
    """`torch.nn.LinearCrossEntropyLoss` for class indices: the logits of all tokens never exist at once, nor does their gradient."""

    has_backward = True
    can_torch_compile = True

    linear: nn.Linear
    ignore_index: int | None
    reduction: str

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        ignore = -100 if self.ignore_index is None else self.ignore_index
        loss = loss_of(input, self.linear.weight, target, bias=self.linear.bias, ignore_index=ignore, reduction=self.reduction)
        return loss.to(input.dtype)


class ForCausalLMLoss(nn.Module):
    """transformers' loss of a causal language model: targets are the labels, one token on."""

    has_backward = True
    can_torch_compile = True

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        vocab_size: int,
        num_items_in_batch: Tensor | None = None,
        ignore_index: int = -100,
        shift_labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if shift_labels is None:
            shift_labels = F.pad(labels, (0, 1), value=ignore_index)[..., 1:]
        target = shift_labels.reshape(-1).to(logits.device)
        total = cross_entropy_sum(logits.reshape(-1, vocab_size), target, ignore_index)
        if num_items_in_batch is None:
            return total / (target != ignore_index).sum()
        if torch.is_tensor(num_items_in_batch):
            num_items_in_batch = num_items_in_batch.to(total.device)
        return total / num_items_in_batch


class linear_cross_entropy(nn.Module):  # noqa: N801  (the layer name that mappings use)
    """Logits of hidden states and their cross entropy with the labels that follow; the logits never exist all at once."""

    has_backward = True
    can_torch_compile = True

    def forward(
        self,
        hidden_states: Tensor,
        weight: Tensor,
        labels: Tensor,
        bias: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> Tensor:
        target = F.pad(labels, (0, 1), value=ignore_index)[..., 1:].reshape(-1)
        return loss_of(hidden_states, weight, target, bias=bias, ignore_index=ignore_index, reduction=reduction)
