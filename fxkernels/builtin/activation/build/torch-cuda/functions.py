"""Activations as functions of tensors: what is launched on which grid, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from . import kernels
from .configurations import Configuration, configured

__all__ = ["activation", "activation_and_mul", "gated"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_RULE: Configuration = {"tile": 1024, "warps": 4}
"""Eight values for each thread: 16 bytes in half precision."""


def activation(x: Tensor, function: str) -> Tensor:
    """Return ``function(x)``, one of ``silu``, ``gelu``, ``gelu_tanh`` and ``quick_gelu``."""
    if x.dtype not in _DTYPES:
        return _COMPOSED[function](x)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Activation.apply(x, function)  # type: ignore[no-any-return,no-untyped-call]
    return _plain_forward(x, function)


def activation_and_mul(x: Tensor, function: str) -> Tensor:
    """Return ``function(x[..., :d]) * x[..., d:]`` with d half of the last dimension."""
    if x.dtype not in _DTYPES or x.shape[-1] % 2 != 0 or not _is_row_after_row(x):
        return _gated_composed(x, function)
    if torch.is_grad_enabled() and x.requires_grad:
        return _ActivationAndMul.apply(x, function)  # type: ignore[no-any-return,no-untyped-call]
    return _gated_forward(*_halves(x), function)


def gated(gate: Tensor, up: Tensor, function: str) -> Tensor:
    """Return ``function(gate) * up``."""
    dtypes = gate.dtype in _DTYPES and up.dtype is gate.dtype
    if not dtypes or gate.shape != up.shape or not (_is_row_after_row(gate) and _is_row_after_row(up)):
        return _COMPOSED[function](gate) * up
    if torch.is_grad_enabled() and gate.requires_grad and up.requires_grad:
        return _Gated.apply(gate, up, function)  # type: ignore[no-any-return,no-untyped-call]
    if torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad):
        return _COMPOSED[function](gate) * up
    return _gated_forward(gate, up, function)


_COMPOSED: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
"""The same from operations that autograd differentiates as often as one likes."""


def _gated_composed(x: Tensor, function: str) -> Tensor:
    size = x.shape[-1] // 2
    return _COMPOSED[function](x[..., :size]) * x[..., size:]


def _is_row_after_row(x: Tensor) -> bool:
    """Whether the result of an element-wise operation on `x` is contiguous; `x` itself may have gaps."""
    return x.is_contiguous() or torch.empty_like(x).is_contiguous()


# --- one input ---------------------------------------------------------------------------------------------------------------------------


def _like(x: Tensor, out: Tensor) -> Tensor:
    """`x` in the layout of `out`, which is without gaps: then element after element is element after element in memory."""
    return x if x.stride() == out.stride() else torch.empty_like(out, dtype=x.dtype).copy_(x)


def _plain_tile(kernel: str, x: Tensor) -> tuple[tuple[int], dict[str, int | bool]]:
    """The grid, and the tile of a program. A tensor without gaps is so many rows of one value."""
    count = x.numel()
    chosen = configured(kernel, 1, count, x.device, _RULE)
    return (triton.cdiv(count, chosen["tile"]),), {"BLOCK": chosen["tile"], "num_warps": chosen["warps"]}


def _plain_forward(x: Tensor, function: str) -> Tensor:
    y = torch.empty_like(x)
    if x.numel() > 0:
        grid, tile = _plain_tile("plain_forward", x)
        kernels.plain_forward[grid](_like(x, y), y, x.numel(), FUNCTION=function, **tile)
    return y


def _plain_backward(grad: Tensor, x: Tensor, function: str) -> Tensor:
    grad_x = torch.empty_like(x)
    if x.numel() > 0:
        grid, tile = _plain_tile("plain_backward", x)
        kernels.plain_backward[grid](_like(grad, grad_x), _like(x, grad_x), grad_x, x.numel(), FUNCTION=function, **tile)
    return grad_x


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.function = function
        return _plain_forward(x, function)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: somebody will differentiate this gradient
            return torch.autograd.grad(_COMPOSED[ctx.function](x), x, grad, create_graph=True)[0], None
        return _plain_backward(grad, x, ctx.function), None


# --- gate and up, of one tensor or of two ------------------------------------------------------------------------------------------------


def _gated_tile(kernel: str, flat: Tensor, n: int) -> tuple[tuple[int], dict[str, int | bool]]:
    """The grid, and the tile of a program: rows and columns of the result."""
    longest, count = max(16, triton.next_power_of_2(n)), flat.shape[0]
    chosen = configured(kernel, longest, count, flat.device, _RULE)
    block = min(chosen["tile"], longest)
    rows, blocks = chosen["tile"] // block, triton.cdiv(n, block)
    tile = {"MASKED": n % block != 0 or rows > 1, "BLOCKS": blocks, "ROWS": rows, "BLOCK": block, "num_warps": chosen["warps"]}
    return (triton.cdiv(count, rows) * blocks,), tile


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    n = x.shape[-1] // 2
    return x[..., :n], x[..., n:]


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _gated_forward(gate: Tensor, up: Tensor, function: str) -> Tensor:
    n = gate.shape[-1]
    y = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    if y.numel() > 0:
        gates, ups = _rows(gate), _rows(up)
        grid, tile = _gated_tile("gated_forward", gates, n)
        kernels.gated_forward[grid](gates, ups, y, *gates.stride(), *ups.stride(), gates.shape[0], n, FUNCTION=function, **tile)
    return y


def _gated_backward(grad: Tensor, gate: Tensor, up: Tensor, grad_gate: Tensor, grad_up: Tensor, row: int, function: str) -> None:
    """Write the gradients of gate and up, in each of which a row begins so many values after the one before."""
    if gate.numel() > 0:
        n = gate.shape[-1]
        grads, gates, ups = _rows(grad), _rows(gate), _rows(up)
        grid, tile = _gated_tile("gated_backward", gates, n)
        strides = *grads.stride(), *gates.stride(), *ups.stride(), row
        kernels.gated_backward[grid](grads, gates, ups, grad_gate, grad_up, *strides, gates.shape[0], n, FUNCTION=function, **tile)


class _ActivationAndMul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.function = function
        return _gated_forward(*_halves(x), function)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return torch.autograd.grad(_gated_composed(x, ctx.function), x, grad, create_graph=True)[0], None
        grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        _gated_backward(grad, *_halves(x), *_halves(grad_x), x.shape[-1], ctx.function)
        return grad_x, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, function: str) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.function = function
        return _gated_forward(gate, up, function)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        if torch.is_grad_enabled():
            found = torch.autograd.grad(_COMPOSED[ctx.function](gate) * up, (gate, up), grad, create_graph=True)
            return found[0], found[1], None
        grad_gate, grad_up = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (gate, up))
        _gated_backward(grad, gate, up, grad_gate, grad_up, gate.shape[-1], ctx.function)
        return grad_gate, grad_up, None
