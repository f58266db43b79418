"""The Triton kernels of LayerNorm for rows that do not fit into registers, and are read again for each step, mostly from the L2 cache.

The arithmetic is that of `kernels.py`. In the backward a program takes every so manieth row, and the sums for the gradients of weight and
bias, which do not fit into registers either, are in its rows of the partial sums, which are nobody else's.
"""

import triton
import triton.language as tl


@triton.jit
def loaded(pointers, inside):
    """Values in float32, zero where nothing is stored."""
    return tl.load(pointers, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def forward(
    x, weight, bias, y, means, reciprocals, x_row, x_column, n, eps, WEIGHT: tl.constexpr, BIAS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    x, y = x + row * x_row, y + row * n
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, n, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        total += loaded(x + columns * x_column, columns < n)
    mean = tl.sum(total, axis=0) / n
    squares = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, n, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        centred = tl.where(columns < n, loaded(x + columns * x_column, columns < n) - mean, 0.0)
        squares += centred * centred
    reciprocal = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / n + eps)
    for start in range(0, n, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < n
        result = (loaded(x + columns * x_column, inside) - mean) * reciprocal
        if WEIGHT:
            result = result * loaded(weight + columns, inside)
        if BIAS:
            result = result + loaded(bias + columns, inside)
        tl.store(y + columns, result, mask=inside)
    tl.store(means + row, mean)
    tl.store(reciprocals + row, reciprocal)


@triton.jit
def terms(x, grad, weight, mean, reciprocal, columns, n, x_column, grad_column, WEIGHT: tl.constexpr):
    """The normalised values, the incoming gradient, and that of the normalised values."""
    inside = columns < n
    z = tl.where(inside, (loaded(x + columns * x_column, inside) - mean) * reciprocal, 0.0)
    incoming = loaded(grad + columns * grad_column, inside)
    outgoing = incoming
    if WEIGHT:
        outgoing = incoming * loaded(weight + columns, inside)
    return z, incoming, outgoing


@triton.jit
def added(pointers, values, inside, is_first):
    """Add the values to what the rows before have left."""
    before = tl.load(pointers, mask=inside & (is_first == 0), other=0.0)
    tl.store(pointers, before + values, mask=inside)


@triton.jit
def backward(
    grad, x, weight, means, reciprocals, grad_x, weight_partial, bias_partial, grad_row, grad_column, x_row, x_column, count, n,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    weight_partial += program * n
    bias_partial += program * n
    for step in range(tl.cdiv(count - program, tl.num_programs(0))):
        row = program + step * tl.num_programs(0)
        mean, reciprocal = tl.load(means + row), tl.load(reciprocals + row)
        at_x, at_grad = x + row * x_row, grad + row * grad_row
        sums = tl.zeros([BLOCK], dtype=tl.float32)
        products = tl.zeros([BLOCK], dtype=tl.float32)
        for start in range(0, n, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            z, _, outgoing = terms(at_x, at_grad, weight, mean, reciprocal, columns, n, x_column, grad_column, WEIGHT)
            sums += outgoing
            products += outgoing * z
        along_mean, along_z = tl.sum(sums, axis=0) / n, tl.sum(products, axis=0) / n
        for start in range(0, n, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            z, incoming, outgoing = terms(at_x, at_grad, weight, mean, reciprocal, columns, n, x_column, grad_column, WEIGHT)
            tl.store(grad_x + row * n + columns, (outgoing - along_mean - z * along_z) * reciprocal, mask=columns < n)
            if WEIGHT:
                added(weight_partial + columns, incoming * z, columns < n, step == 0)
            if BIAS:
                added(bias_partial + columns, incoming, columns < n, step == 0)
        tl.debug_barrier()  # the next row's loads are after these stores, whichever thread makes them
