"""The memory layout of a layer's outputs, which a kernel's get too: by a copy, where the kernel has another.

Whoever reads the output may depend on it: a later ``view`` works for one layout only, and compiled code is made for one. Kernels are mostly
written for contiguous tensors, and return such where the layer returns a transposed view.
"""

from __future__ import annotations

from typing import Any

import torch

Order = tuple[int, ...]
"""The dimensions of a dense tensor, from that of the largest stride to that of the smallest."""


def order_of(example: torch.Tensor) -> Order | None:
    """Return the order in which a tensor's dimensions lie in memory; None if it has gaps or overlaps, as no copy would have.

    Args:
        example: A tensor, real or fake. Symbolic sizes are compared as expressions, so no guard is added.
    """
    sizes, strides = [_expression(size) for size in example.shape], [_expression(stride) for stride in example.stride()]
    hints = [_hint(stride) for stride in example.stride()]
    if None in hints:
        return None
    order = sorted(range(example.dim()), key=lambda dimension: (sizes[dimension] == 1, -hints[dimension]))
    expected: Any = 1
    for dimension in reversed(order):
        if sizes[dimension] == 1:
            continue  # its stride is never used
        if strides[dimension] != expected:
            return None
        expected = expected * sizes[dimension]
    return tuple(order)


def metadata(value: Any) -> tuple[Any, ...]:
    """Return what a kernel's output must have in common with the layer's: dtype, device, sizes and, last, strides. Symbolic ones are
    expressions, so that comparing adds no guard."""
    if not isinstance(value, torch.Tensor):
        return (repr(value),)
    sizes = [_expression(size) for size in value.shape]
    # The stride of a dimension of size 1 is never used, and kernels differ in what they put there.
    strides = [_expression(stride) for size, stride in zip(sizes, value.stride(), strict=True) if size != 1]
    return (value.dtype, value.device, sizes, [] if 0 in sizes else strides)


def order_instead(got: Any, wanted: Any) -> Order | None:
    """Return the order in which the dimensions of `got` have to lie so that it is like `wanted`; None if they differ in more than that."""
    if not isinstance(wanted, torch.Tensor) or metadata(got)[:-1] != metadata(wanted)[:-1]:
        return None
    return order_of(wanted)


def laid_out(tensor: torch.Tensor, order: Order) -> torch.Tensor:
    """Return the tensor, or a copy whose dimensions lie in this order. The gradient of a copy goes back in the tensor's own layout."""
    permuted = tensor.permute(order)
    if permuted.is_contiguous():
        return tensor
    copy: torch.Tensor = _Copy.apply(tensor, order)  # type: ignore[no-untyped-call]
    return copy


class _Copy(torch.autograd.Function):
    """A copy in another layout. Autograd hands a gradient back in the layout in which it comes, and who made the tensor expects his own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: torch.Tensor, order: Order) -> torch.Tensor:
        return tensor.permute(order).contiguous().permute([order.index(dimension) for dimension in range(len(order))])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.order = order_of(inputs[0]) or tuple(range(output.dim()))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return laid_out(gradient, ctx.order), None


def _expression(size: Any) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else size


def _hint(size: Any) -> Any:
    return size.node.hint if isinstance(size, torch.SymInt) else size
