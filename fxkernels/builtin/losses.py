"""A loss as a plain function, for training code that has no layer to annotate."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from torch import Tensor

from fxkernels.target import Target

from .repositories import builtin_repository

__all__ = ["linear_cross_entropy"]


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
    """Return ``cross_entropy(linear(hidden, weight, bias), target)`` in float32, without ever holding all logits or their gradient.

    On CUDA, in Triton, the backward computes the logits again, some of the vocabulary at a time. On CPUs, in torch, the gradients are
    computed with the loss, some tokens at a time.

    Args:
        hidden: Hidden states, (..., width).
        weight: The weight of the output layer, (vocabulary, width), of the same dtype.
        target: Whole numbers, of the shape of `hidden` without its last dimension.
        bias: (vocabulary,).
        ignore_index: The target that counts for nothing.
        reduction: ``"mean"`` over the targets that count, or ``"sum"``.
        num_items: What the sum is divided by, e.g. where gradients are accumulated over batches; with it, `reduction` is not asked.

    Raises:
        ValueError: For another reduction.
        RepositoryError: If there is no build for the device of `hidden`.

    Example:
        >>> loss = linear_cross_entropy(hidden[:, :-1], model.lm_head.weight, input_ids[:, 1:])
    """
    function = _function_for(hidden.device.type)
    loss: Tensor = function(hidden, weight, target, bias=bias, ignore_index=ignore_index, reduction=reduction, num_items=num_items)
    return loss


@cache
def _function_for(device_type: str) -> Any:
    kernel = builtin_repository("LinearCrossEntropyLoss").load_for(Target.of_machine(device_type))
    return sys.modules[kernel.cls.__module__].loss_of
