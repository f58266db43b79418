"""The language modelling loss of hidden states: head, shift of the labels, and cross entropy."""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F

from ..fusion import ANY, Fusion, one_of


class LinearCrossEntropy(Fusion):
    """Logits of all positions, and their cross entropy with the labels that follow (transformers' `ForCausalLMLoss`).

    A kernel computes logits and their gradient for some rows at a time, so that they are never all in memory. The model must not return the
    logits as well.
    """

    layer_name = "linear_cross_entropy"

    def forward(
        self, hidden_states: Any, weight: Any, labels: Any, bias: Any = None, ignore_index: Any = -100, reduction: Any = "mean"
    ) -> Any:
        """Return the loss."""
        logits = F.linear(one_of(hidden_states[:, ANY, :], hidden_states), weight, bias)
        logits = one_of(logits.float(), logits).view(ANY)
        labels = F.pad(labels, (0, 1), value=ANY)[..., 1:]
        labels = one_of(labels.contiguous(), labels).view(-1)
        return F.cross_entropy(logits, one_of(labels.to(ANY), labels), ignore_index=ignore_index, reduction=reduction)
