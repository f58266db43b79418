"""What is launched for rows of logits, and on which grid. No tuning: a row is read in blocks of one size, whatever the vocabulary."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from . import kernels

__all__ = ["losses_of", "write_gradient"]

_READ, _WRITTEN = 8192, 4096


def losses_of(logits: Tensor, targets: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
    """Return, for rows of logits, the losses and the logarithms of the sums of exponentials, both in float32."""
    count, n = logits.shape
    losses, logarithms = (torch.empty(count, dtype=torch.float32, device=logits.device) for _ in range(2))
    if count > 0:
        block = min(_READ, max(16, triton.next_power_of_2(n)))
        strides = logits.stride(0), logits.stride(1)
        kernels.losses[(count,)](
            logits, targets, losses, logarithms, *strides, n, ignore, BLOCK=block, num_warps=max(1, min(16, block // 512))
        )
    return losses, logarithms


def write_gradient(
    logits: Tensor, targets: Tensor, logarithms: Tensor, scale: Tensor, ignore: int, *, first: int = 0, out: Tensor | None = None
) -> None:
    """Write the gradient of rows of logits, times `scale`, into `out`, which is contiguous, or over the logits.

    The logits are those of the whole vocabulary, or a slab of them, of which the first is that of the word `first`.
    """
    count, n = logits.shape
    if count > 0:
        block = min(_WRITTEN, max(16, triton.next_power_of_2(n)))
        # The logits are not handed over twice: who traces this launch would have to copy them, to tell what is read from what is written.
        kernels.gradient[(count, triton.cdiv(n, block))](
            logits,
            targets,
            logarithms,
            scale,
            scale if out is None else out,
            logits.stride(0),
            logits.stride(1),
            n,
            first,
            ignore,
            OVERWRITE=out is None,
            BLOCK=block,
            num_warps=max(1, min(8, block // 512)),
        )
