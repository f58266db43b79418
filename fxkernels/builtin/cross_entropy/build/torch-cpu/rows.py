"""The losses of rows of logits, and the gradient of the logits, in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["losses_of", "write_gradient"]


def losses_of(logits: Tensor, targets: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
    """Return, for rows of logits, the losses and the logarithms of the sums of exponentials, both in float32."""
    wide = logits.to(torch.float32)
    return F.cross_entropy(wide, targets, ignore_index=ignore, reduction="none"), wide.logsumexp(-1)


def write_gradient(logits: Tensor, targets: Tensor, logarithms: Tensor, scale: Tensor, ignore: int) -> None:
    """Write the gradient of rows of logits, times `scale`, over the logits."""
    counted = targets != ignore
    change = logits.to(torch.float32).sub_(logarithms[:, None]).exp_()
    change.scatter_add_(1, torch.where(counted, targets, 0)[:, None], -torch.ones_like(targets, dtype=torch.float32)[:, None])
    logits.copy_(change.mul_(scale).masked_fill_(~counted[:, None], 0.0))
