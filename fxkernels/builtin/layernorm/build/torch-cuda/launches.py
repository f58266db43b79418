"""What is launched for LayerNorm, and on which grid."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from . import kernels, long_rows
from .configurations import Configuration, affordable, configured

__all__ = ["is_long", "launch_backward", "launch_forward"]

# Rows up to this length are held in registers: one value takes one register of a thread in the forward, about five in the backward.
_LONGEST_FORWARD, _LONGEST_BACKWARD = 32768, 8192
_LONG_BLOCK, _LONG_PROGRAMS = 4096, 264


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
    x: Tensor, n: int, weight: Tensor | None, bias: Tensor | None, epsilon: float, other: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the result, row after row, the means of the rows, the reciprocals of their deviations, and what was normalised.

    That is `x`, or with `other` the sum of the two, of the same shape.
    """
    flat = x.reshape(-1, n)
    flat_other = flat if other is None else other.reshape(-1, n)
    count = flat.shape[0]
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = x if other is None else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    means, reciprocals = (torch.empty(count, dtype=torch.float32, device=x.device) for _ in range(2))
    if x.numel() == 0:
        return y, means, reciprocals, total
    parameters = [flat if p is None else p.contiguous() for p in (weight, bias)]
    form = {"WEIGHT": weight is not None, "BIAS": bias is not None}
    if n > _LONGEST_FORWARD:
        tensors = flat, *parameters, y, means, reciprocals
        long_rows.forward[(count,)](*tensors, *flat.stride(), n, epsilon, **form, BLOCK=_LONG_BLOCK, num_warps=16)
        return y, means, reciprocals, total
    block = max(16, triton.next_power_of_2(n))
    chosen = configured("forward", block, count, x.device, _rule(block, 0))
    tile = _tile(count, n, [flat] if other is None else [flat, flat_other], chosen)
    tensors = flat, flat_other, *parameters, y, flat if other is None else total, means, reciprocals
    strides = *flat.stride(), *flat_other.stride()
    kernels.forward[(_programs(count, chosen),)](*tensors, *strides, count, n, epsilon, **form, ADD=other is not None, **tile)
    return y, means, reciprocals, total


def launch_backward(
    grad: Tensor,
    x: Tensor,
    n: int,
    weight: Tensor | None,
    bias: Tensor | None,
    means: Tensor,
    reciprocals: Tensor,
    grad_total: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of x, weight and bias; that of x begins with `grad_total`."""
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel() == 0:
        return grad_x, *(None if p is None else torch.zeros_like(p) for p in (weight, bias))
    flat, flat_grad = x.reshape(-1, n), grad.reshape(-1, n)
    count = flat.shape[0]
    block = max(16, triton.next_power_of_2(n))
    long = is_long(n)
    chosen = configured("backward", block, count, x.device, _rule(block, _LONG_PROGRAMS))
    programs = min(count, _LONG_PROGRAMS) if long else _programs(count, chosen)
    gradients = [None if p is None else torch.empty(p.shape, dtype=p.dtype, device=x.device) for p in (weight, bias)]
    # What one program finds in registers are the gradients; else each leaves its part, in float32.
    alone = programs == 1 and not long
    partials = gradients if alone else [None if p is None else p.new_empty((programs, n), dtype=torch.float32) for p in gradients]
    weights = flat if weight is None else weight.contiguous()
    tensors = flat, weights, means, reciprocals, grad_x, *(flat if p is None else p for p in partials)
    form = {"WEIGHT": weight is not None, "BIAS": bias is not None}
    if long:
        strides = *flat_grad.stride(), *flat.stride()
        long_rows.backward[(programs,)](flat_grad, *tensors, *strides, count, n, **form, BLOCK=_LONG_BLOCK, num_warps=16)
    else:
        flat_total = flat_grad if grad_total is None else grad_total.reshape(-1, n)
        tile = _tile(count, n, [flat_grad, flat] if grad_total is None else [flat_grad, flat_total, flat], chosen)
        strides = *flat_grad.stride(), *flat_total.stride(), *flat.stride()
        form["ADD"] = grad_total is not None
        kernels.backward[(programs,)](flat_grad, flat_total, *tensors, *strides, count, n, **form, **tile)
    if not alone:
        _sum(partials, gradients, programs, n)
    return grad_x, gradients[0], gradients[1]


def _sum(partials: list[Tensor | None], gradients: list[Tensor | None], count: int, n: int) -> None:
    """The second stage: without atomics, so the same sums come out each time."""
    pairs = [(p, g) for p, g in zip(partials, gradients, strict=True) if p is not None]
    if pairs:
        (first, first_sum), (second, second_sum) = pairs[0], pairs[-1]
        grid = triton.cdiv(n, 16), len(pairs)
        kernels.summed[grid](first, second, first_sum, second_sum, count, n, ROWS=512, BLOCK=16, num_warps=8)


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
