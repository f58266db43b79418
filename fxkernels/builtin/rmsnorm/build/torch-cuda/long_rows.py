"""The Triton kernels of all RMSNorms for rows that do not fit into registers, and are read twice, the second time mostly from the L2 cache.

The arithmetic is that of `kernels.py`. In the backward a program takes every so manieth row, and the sums for the weight's gradient, which
do not fit into registers either, are in its row of `partial`, which is nobody else's.
"""

import triton
import triton.language as tl

from .kernels import activated


@triton.jit
def loaded(pointers, inside):
    """Values in float32, zero where nothing is stored."""
    return tl.load(pointers, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def forward(
    x, weight, gate, y, reciprocals, x_row, x_column, gate_row, gate_column, n, eps,
    OFFSET: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    x, y, gate = x + row * x_row, y + row * n, gate + row * gate_row
    squares = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, n, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        values = loaded(x + columns * x_column, columns < n)
        squares += values * values
    reciprocal = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / n + eps)
    for start in range(0, n, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < n
        result = loaded(x + columns * x_column, inside) * reciprocal * (loaded(weight + columns, inside) + OFFSET)
        if ACTIVATION != "none":
            value, _ = activated(loaded(gate + columns * gate_column, inside), ACTIVATION)
            result = result * value
        tl.store(y + columns, result, mask=inside)
    tl.store(reciprocals + row, reciprocal)


@triton.jit
def terms(
    x, grad, weight, gate, reciprocal, columns, n, x_column, grad_column, gate_column, OFFSET: tl.constexpr, ACTIVATION: tl.constexpr
):  # fmt: skip
    """The normalised values, their gradient, what the row adds to that of the weight, and that of the gate."""
    inside = columns < n
    normalized = loaded(x + columns * x_column, inside) * reciprocal
    incoming = loaded(grad + columns * grad_column, inside)
    scale = loaded(weight + columns, inside) + OFFSET
    of_gate = incoming
    if ACTIVATION != "none":
        value, slope = activated(loaded(gate + columns * gate_column, inside), ACTIVATION)
        of_gate = incoming * normalized * scale * slope
        incoming = incoming * value
    return normalized, incoming * scale, incoming * normalized, of_gate


@triton.jit
def backward(
    grad, x, weight, gate, reciprocals, grad_x, grad_gate, partial, grad_row, grad_column, x_row, x_column, gate_row, gate_column, count, n,
    OFFSET: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    partial += program * n
    for step in range(tl.cdiv(count - program, tl.num_programs(0))):
        row = program + step * tl.num_programs(0)
        reciprocal = tl.load(reciprocals + row)
        at_x, at_grad, at_gate = x + row * x_row, grad + row * grad_row, gate + row * gate_row
        products = tl.zeros([BLOCK], dtype=tl.float32)
        for start in range(0, n, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            normalized, outgoing, _, _ = terms(
                at_x, at_grad, weight, at_gate, reciprocal, columns, n, x_column, grad_column, gate_column, OFFSET, ACTIVATION
            )
            products += outgoing * normalized
        projection = tl.sum(products, axis=0) / n
        for start in range(0, n, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            inside = columns < n
            normalized, outgoing, to_weight, of_gate = terms(
                at_x, at_grad, weight, at_gate, reciprocal, columns, n, x_column, grad_column, gate_column, OFFSET, ACTIVATION
            )
            tl.store(grad_x + row * n + columns, (outgoing - normalized * projection) * reciprocal, mask=inside)
            if ACTIVATION != "none":
                tl.store(grad_gate + row * n + columns, of_gate, mask=inside)
            before = tl.load(partial + columns, mask=inside & (step > 0), other=0.0)
            tl.store(partial + columns, before + to_weight, mask=inside)
        tl.debug_barrier()  # the next row's loads are after these stores, whichever thread makes them
