"""What is launched for RMSNorm, and on which grid."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from . import kernels, long_rows
from .configurations import Configuration, affordable, configured

__all__ = ["is_long", "launch_backward", "launch_forward"]

# Rows up to this length are held in registers: one value takes one register of a thread in the forward, about four in the backward.
_LONGEST_FORWARD, _LONGEST_BACKWARD = 32768, 16384
_LONG_BLOCK, _LONG_PROGRAMS = 8192, 264


def _rule(block: int, programs: int) -> Configuration:
    """Tiles of 2048 values or a row, 16 to 32 values for each thread; with `programs` so many, or half as many of large tiles."""
    rows = max(1, 2048 // block)
    tile = rows * block
    stages = 0 if programs == 0 else 3
    return {"rows": rows, "warps": min(16, max(4, tile // 1024)), "stages": stages, "programs": programs if tile <= 4096 else programs // 2}


def is_long(n: int) -> bool:
    """Whether rows of this length are not held in registers; then nothing can be added to them on the way."""
    return n > _LONGEST_BACKWARD


def launch_forward(
    x: Tensor,
    weight: Tensor,
    gate: Tensor | None,
    epsilon: float,
    dtype: torch.dtype,
    offset: float,
    activation: str,
    other: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the result, row after row, the reciprocals of the rows' root mean squares, and what was normalised.

    That is `x`, or with `other` the sum of the two, of the same shape.
    """
    n = x.shape[-1]
    flat = x.reshape(-1, n)
    flat_other = flat if other is None else other.reshape(-1, n)
    total = x if other is None else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    flat_gate = flat if gate is None else gate.reshape(-1, n)
    count = flat.shape[0]
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    reciprocals = torch.empty(count, dtype=torch.float32, device=x.device)
    if x.numel() == 0:
        return y, reciprocals, total
    weight = weight.contiguous()
    form = {"OFFSET": offset, "ACTIVATION": activation}
    if n > _LONGEST_FORWARD:
        strides = *flat.stride(), *flat_gate.stride()
        long_rows.forward[(count,)](flat, weight, flat_gate, y, reciprocals, *strides, n, epsilon, **form, BLOCK=_LONG_BLOCK, num_warps=16)
        return y, reciprocals, total
    block = max(16, triton.next_power_of_2(n))
    chosen = configured("forward" if gate is None else "forward, gated", block, count, x.device, _rule(block, 0))
    read = [flat, *([] if other is None else [flat_other]), *([] if gate is None else [flat_gate])]
    tensors = flat, flat_other, weight, flat_gate, y, flat if other is None else total, reciprocals
    strides = *flat.stride(), *flat_other.stride(), *flat_gate.stride()
    tile = _tile(count, n, read, chosen)
    kernels.forward[(_programs(count, chosen),)](*tensors, *strides, count, n, epsilon, **form, ADD=other is not None, **tile)
    return y, reciprocals, total


def launch_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    gate: Tensor | None,
    reciprocals: Tensor,
    offset: float,
    activation: str,
    grad_total: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of x, weight and gate; that of x begins with `grad_total`."""
    n = x.shape[-1]
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grad_gate = None if gate is None else torch.empty(gate.shape, dtype=gate.dtype, device=x.device)
    if x.numel() == 0:
        return grad_x, torch.zeros_like(weight), grad_gate
    flat, flat_grad = x.reshape(-1, n), grad.reshape(-1, n)
    flat_gate = flat if gate is None else gate.reshape(-1, n)
    count = flat.shape[0]
    block = max(16, triton.next_power_of_2(n))
    long = is_long(n)
    chosen = configured("backward" if gate is None else "backward, gated", block, count, x.device, _rule(block, _LONG_PROGRAMS))
    programs = min(count, _LONG_PROGRAMS) if long else _programs(count, chosen)
    grad_weight = torch.empty(n, dtype=weight.dtype, device=x.device)
    # What one program finds in registers is the gradient; else each leaves its part, in float32.
    alone = programs == 1 and not long
    partial = grad_weight if alone else torch.empty((programs, n), dtype=torch.float32, device=x.device)
    tensors = flat, weight.contiguous(), flat_gate, reciprocals, grad_x, flat if grad_gate is None else grad_gate, partial
    form = {"OFFSET": offset, "ACTIVATION": activation}
    if long:
        strides = *flat_grad.stride(), *flat.stride(), *flat_gate.stride()
        long_rows.backward[(programs,)](flat_grad, *tensors, *strides, count, n, **form, BLOCK=_LONG_BLOCK, num_warps=16)
    else:
        flat_total = flat_grad if grad_total is None else grad_total.reshape(-1, n)
        read = [flat_grad, flat, *([] if grad_total is None else [flat_total]), *([] if gate is None else [flat_gate])]
        strides = *flat_grad.stride(), *flat_total.stride(), *flat.stride(), *flat_gate.stride()
        tile = _tile(count, n, read, chosen)
        kernels.backward[(programs,)](flat_grad, flat_total, *tensors, *strides, count, n, **form, ADD=grad_total is not None, **tile)
    if not alone:
        # The second stage: without atomics, so the same sums come out each time.
        kernels.summed[(triton.cdiv(n, 16),)](partial, grad_weight, programs, n, ROWS=512, BLOCK=16, num_warps=8)
    return grad_x, grad_weight, grad_gate


def _programs(count: int, chosen: Configuration) -> int:
    """One for each tile, or fewer that take several."""
    tiles = triton.cdiv(count, chosen["rows"])
    return tiles if chosen["stages"] == 0 else min(tiles, chosen["programs"])


def _tile(count: int, n: int, read: list[Tensor], chosen: Configuration) -> dict[str, int | bool]:
    """How tiles are formed and taken, where each reads rows of some tensors."""
    rows, block = chosen["rows"], max(16, triton.next_power_of_2(n))
    alone = chosen["stages"] == 0 or triton.cdiv(count, rows) <= chosen["programs"]
    stages = 0 if alone else affordable(chosen["stages"], rows * block * sum(t.element_size() for t in read), read[0].device)
    return {"MASKED": n != block or rows > 1, "STAGES": stages, "ROWS": rows, "BLOCK": block, "num_warps": chosen["warps"]}
