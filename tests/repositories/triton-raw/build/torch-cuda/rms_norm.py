"""RMSNorm in Triton: plain `triton.jit` kernels, rows of any length, sums in float32."""

import torch
import triton
import triton.language as tl

_BLOCK = 1024
_ROWS = 32


@triton.jit
def _forward(x, weight, y, scale, x_row, x_column, n, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x += row * x_row
    squares = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, n, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        values = tl.load(x + columns * x_column, mask=columns < n, other=0.0).to(tl.float32)
        squares += values * values
    factor = 1 / tl.sqrt(tl.sum(squares) / n + eps)
    tl.store(scale + row, factor)
    for start in range(0, n, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        values = tl.load(x + columns * x_column, mask=columns < n, other=0.0)
        normalized = (values.to(tl.float32) * factor).to(values.dtype).to(tl.float32)
        tl.store(y + row * n + columns, normalized * tl.load(weight + columns, mask=columns < n).to(tl.float32), mask=columns < n)


@triton.jit
def _backward_input(grad, x, weight, scale, grad_x, grad_row, grad_column, x_row, x_column, n, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    grad += row * grad_row
    x += row * x_row
    factor = tl.load(scale + row)
    products = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, n, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < n
        normalized = tl.load(x + columns * x_column, mask=inside, other=0.0).to(tl.float32) * factor
        incoming = tl.load(grad + columns * grad_column, mask=inside, other=0.0).to(tl.float32)
        products += incoming * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32) * normalized
    projection = tl.sum(products) / n
    for start in range(0, n, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < n
        normalized = tl.load(x + columns * x_column, mask=inside, other=0.0).to(tl.float32) * factor
        incoming = tl.load(grad + columns * grad_column, mask=inside, other=0.0).to(tl.float32)
        outgoing = incoming * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
        tl.store(grad_x + row * n + columns, (outgoing - normalized * projection) * factor, mask=inside)


@triton.jit
def _backward_weight(
    grad,
    x,
    scale,
    partial,
    grad_row,
    grad_column,
    x_row,
    x_column,
    rows,
    n,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums up `ROWS` rows of a block of columns; what is left to add up is one row per program."""
    group = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < n
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for offset in range(ROWS):
        row = group * ROWS + offset
        present = inside & (row < rows)
        factor = tl.load(scale + row, mask=row < rows, other=0.0)
        normalized = tl.load(x + row * x_row + columns * x_column, mask=present, other=0.0).to(tl.float32) * factor
        total += normalized * tl.load(grad + row * grad_row + columns * grad_column, mask=present, other=0.0).to(tl.float32)
    tl.store(partial + group * n + columns, total, mask=inside)


class RMSNormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        n = x.shape[-1]
        rows = x.reshape(-1, n)
        y = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype), device=x.device)
        scale = torch.empty(rows.shape[0], dtype=torch.float32, device=x.device)
        _forward[(rows.shape[0],)](rows, weight, y, scale, rows.stride(0), rows.stride(1), n, eps, BLOCK=_BLOCK)
        ctx.save_for_backward(rows, weight, scale)
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        count, n = x.shape
        shape, grad = grad.shape, grad.reshape(-1, n)
        grad_x = torch.empty((count, n), dtype=x.dtype, device=x.device)
        strides = (grad.stride(0), grad.stride(1), x.stride(0), x.stride(1))
        _backward_input[(count,)](grad, x, weight, scale, grad_x, *strides, n, BLOCK=_BLOCK)
        groups = triton.cdiv(count, _ROWS)
        partial = torch.empty((groups, n), dtype=torch.float32, device=x.device)
        _backward_weight[(groups, triton.cdiv(n, _BLOCK))](grad, x, scale, partial, *strides, count, n, ROWS=_ROWS, BLOCK=_BLOCK)
        return grad_x.view(shape), partial.sum(0).to(weight.dtype), None
