"""What is launched for the causal convolution, and on which grid."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from . import kernels
from .configurations import Configuration, configured

__all__ = ["launch_backward", "launch_forward"]

# A channel for each thread, and as many programs as keep the memory busy on a GPU of a hundred multiprocessors.
_FORWARD: Configuration = {"channels": 128, "steps": 16, "warps": 4, "programs": 4096}
_BACKWARD: Configuration = {"channels": 128, "steps": 16, "warps": 4, "programs": 2048}


def launch_forward(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """Return the convolution, dense in time."""
    batch, count, length = x.shape
    width = weight.shape[1]
    # Without an activation the reference returns a part of what `conv1d` returns, which is longer.
    y = torch.empty((batch, count, length if silu else length + width - 1), dtype=x.dtype, device=x.device)[:, :, :length]
    if x.numel() == 0:
        return y
    grid, each, tile = _tile("forward", x, _FORWARD)
    tensors = x, weight.contiguous(), x if bias is None else bias.contiguous(), y
    strides = *x.stride(), y.stride(0), y.stride(1)
    form = {"BIAS": bias is not None, "SILU": silu, "WIDTH": width, "TIME_IS_DENSE": _time_is_dense(x)}
    kernels.forward[grid](*tensors, *strides, count, length, each, **form, **tile)
    return y


def launch_backward(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of x, weight and bias."""
    count, length = x.shape[1:]
    width = weight.shape[1]
    grad_x = torch.empty_like(x)
    if x.numel() == 0:
        return grad_x, torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias)
    grid, each, tile = _tile("backward", x, _BACKWARD)
    partial = torch.empty((grid[0], width + 1, count), dtype=torch.float32, device=x.device)
    tensors = grad, x, weight.contiguous(), x if bias is None else bias.contiguous(), grad_x, partial
    dense = {"GRAD_TIME_IS_DENSE": _time_is_dense(grad), "TIME_IS_DENSE": _time_is_dense(x), "OUT_TIME_IS_DENSE": _time_is_dense(grad_x)}
    form = {"BIAS": bias is not None, "SILU": silu, "WIDTH": width, **dense}
    kernels.backward[grid](*tensors, *grad.stride(), *x.stride(), *grad_x.stride(), count, length, each, **form, **tile)
    grad_weight = torch.empty(weight.shape, dtype=weight.dtype, device=x.device)
    grad_bias = None if bias is None else torch.empty(count, dtype=bias.dtype, device=x.device)
    # The second stage: without atomics, so the same sums come out each time.
    grid = triton.cdiv(count, 16), width if bias is None else width + 1
    out = grad_weight if grad_bias is None else grad_bias
    kernels.summed[grid](partial, grad_weight, out, partial.shape[0], count, WIDTH=width, ROWS=128, BLOCK=16, num_warps=4)
    return grad_x, grad_weight, grad_bias


def _time_is_dense(x: Tensor) -> bool:
    """Whether it is, and channels are not."""
    return x.stride(2) == 1 and x.stride(1) != 1


def _tile(kernel: str, x: Tensor, rule: Configuration) -> tuple[tuple[int, int], int, dict[str, int]]:
    """The grid, how many tiles of times a program takes, and its tile. A row of the table is a time, with all channels."""
    batch, count, length = x.shape
    chosen = configured(kernel, triton.next_power_of_2(count), batch * length, x.device, rule)
    channels, steps = min(chosen["channels"], max(16, triton.next_power_of_2(count))), chosen["steps"]
    blocks, tiles = triton.cdiv(count, channels), triton.cdiv(length, steps)
    each = min(tiles, triton.cdiv(batch * tiles * blocks, chosen["programs"]))
    tile = {"CHANNELS": channels, "STEPS": steps, "num_warps": min(chosen["warps"], max(1, channels // 32))}
    return (batch * triton.cdiv(tiles, each), blocks), each, tile
