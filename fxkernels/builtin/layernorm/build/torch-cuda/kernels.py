"""The Triton kernels of LayerNorm: one forward, one backward.

With x a row of n values, m its mean, r = 1 / sqrt(mean((x - m)^2) + eps) and z = (x - m) r:

    y = z w + b        dx = r (h - mean(h) - z mean(h z)) with h = g w        dw = sum over rows of g z        db = sum over rows of g

Everything is computed in float32 and rounded once, where it is stored. What has to be moved is x and y in the forward, and x, g and dx in
the backward; weight, bias and the partial sums of their gradients stay in the L2 cache.

`WHOLE` says that BLOCK covers a row, which then is held in registers and read once; with short rows a program takes ROWS at a time. Longer
rows are read again for each step, mostly from the L2 cache. Without a weight it counts as one, without a bias as zero.
"""

import triton
import triton.language as tl


@triton.jit
def loaded(pointers, columns, stride, inside):
    """A block of rows, in float32."""
    return tl.load(pointers + columns * stride, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def affine(z, weight, bias, columns, inside, WEIGHT: tl.constexpr, BIAS: tl.constexpr):
    """The normalised values times the weight plus the bias."""
    if WEIGHT:
        z = z * loaded(weight, columns, 1, inside)
    if BIAS:
        z = z + loaded(bias, columns, 1, inside)
    return z


@triton.jit
def forward(
    x,
    weight,
    bias,
    y,
    means,
    reciprocals,
    x_row,
    x_column,
    count,
    n,
    eps,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    WHOLE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    present = (rows < count)[:, None]
    x, y = x + rows[:, None] * x_row, y + rows[:, None] * n
    if WHOLE:
        columns = tl.arange(0, BLOCK)[None, :]
        inside = present & (columns < n)
        values = loaded(x, columns, x_column, inside)
        mean = tl.sum(values, axis=1) / n
        centred = tl.where(inside, values - mean[:, None], 0.0)
        reciprocal = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / n + eps)
        tl.store(y + columns, affine(centred * reciprocal[:, None], weight, bias, columns, inside, WEIGHT, BIAS), mask=inside)
    else:
        total = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
        for start in range(0, n, BLOCK):
            columns = start + tl.arange(0, BLOCK)[None, :]
            total += loaded(x, columns, x_column, present & (columns < n))
        mean = tl.sum(total, axis=1) / n
        squares = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
        for start in range(0, n, BLOCK):
            columns = start + tl.arange(0, BLOCK)[None, :]
            inside = present & (columns < n)
            centred = tl.where(inside, loaded(x, columns, x_column, inside) - mean[:, None], 0.0)
            squares += centred * centred
        reciprocal = 1.0 / tl.sqrt(tl.sum(squares, axis=1) / n + eps)
        for start in range(0, n, BLOCK):
            columns = start + tl.arange(0, BLOCK)[None, :]
            inside = present & (columns < n)
            z = (loaded(x, columns, x_column, inside) - mean[:, None]) * reciprocal[:, None]
            tl.store(y + columns, affine(z, weight, bias, columns, inside, WEIGHT, BIAS), mask=inside)
    tl.store(means + rows, mean, mask=rows < count)
    tl.store(reciprocals + rows, reciprocal, mask=rows < count)


@triton.jit
def terms(x, grad, weight, mean, reciprocal, columns, x_column, grad_column, inside, WEIGHT: tl.constexpr):
    """The normalised values, the incoming gradient, and that of the normalised values."""
    z = tl.where(inside, (loaded(x, columns, x_column, inside) - mean) * reciprocal, 0.0)
    incoming = loaded(grad, columns, grad_column, inside)
    outgoing = incoming
    if WEIGHT:
        outgoing = incoming * loaded(weight, columns, 1, inside)
    return z, incoming, outgoing


@triton.jit
def backward(
    grad,
    x,
    weight,
    means,
    reciprocals,
    grad_x,
    weight_partial,
    bias_partial,
    grad_row,
    grad_column,
    x_row,
    x_column,
    count,
    n,
    each,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    WHOLE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program takes `each` times ROWS rows in a row, and leaves what they add to the gradients of weight and bias in its own row."""
    program = tl.program_id(0).to(tl.int64)
    weight_partial += program * n
    bias_partial += program * n
    weight_total = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    bias_total = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    for step in range(each):
        rows = (program * each + step) * ROWS + tl.arange(0, ROWS)
        present = (rows < count)[:, None]
        mean = tl.load(means + rows, mask=rows < count, other=0.0)[:, None]
        reciprocal = tl.load(reciprocals + rows, mask=rows < count, other=0.0)[:, None]
        at_x, at_grad, at_grad_x = x + rows[:, None] * x_row, grad + rows[:, None] * grad_row, grad_x + rows[:, None] * n
        if WHOLE:
            columns = tl.arange(0, BLOCK)[None, :]
            inside = present & (columns < n)
            z, incoming, outgoing = terms(at_x, at_grad, weight, mean, reciprocal, columns, x_column, grad_column, inside, WEIGHT)
            along_mean = (tl.sum(outgoing, axis=1) / n)[:, None]
            along_z = (tl.sum(outgoing * z, axis=1) / n)[:, None]
            tl.store(at_grad_x + columns, (outgoing - along_mean - z * along_z) * reciprocal, mask=inside)
            weight_total += incoming * z
            bias_total += incoming
        else:
            sums = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
            products = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
            for start in range(0, n, BLOCK):
                columns = start + tl.arange(0, BLOCK)[None, :]
                inside = present & (columns < n)
                z, incoming, outgoing = terms(at_x, at_grad, weight, mean, reciprocal, columns, x_column, grad_column, inside, WEIGHT)
                sums += outgoing
                products += outgoing * z
            along_mean = (tl.sum(sums, axis=1) / n)[:, None]
            along_z = (tl.sum(products, axis=1) / n)[:, None]
            for start in range(0, n, BLOCK):
                columns = start + tl.arange(0, BLOCK)[None, :]
                inside = present & (columns < n)
                z, incoming, outgoing = terms(at_x, at_grad, weight, mean, reciprocal, columns, x_column, grad_column, inside, WEIGHT)
                tl.store(at_grad_x + columns, (outgoing - along_mean - z * along_z) * reciprocal, mask=inside)
                # The sums of a long row do not fit into registers: they are in this program's own row.
                there, before = columns < n, (columns < n) & (step > 0)
                if WEIGHT:
                    tl.store(weight_partial + columns, tl.load(weight_partial + columns, mask=before, other=0.0) + incoming * z, mask=there)
                if BIAS:
                    tl.store(bias_partial + columns, tl.load(bias_partial + columns, mask=before, other=0.0) + incoming, mask=there)
            tl.debug_barrier()  # the next row's loads are after these stores, whichever thread makes them
    if WHOLE:
        places = tl.arange(0, BLOCK)
        if WEIGHT:
            tl.store(weight_partial + places, tl.sum(weight_total, axis=0), mask=places < n)
        if BIAS:
            tl.store(bias_partial + places, tl.sum(bias_total, axis=0), mask=places < n)
