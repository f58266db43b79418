"""The Triton kernels of LayerNorm for rows that fit into the registers of a program: forward, backward, and the sum of partial sums.

With x a row of n values, m its mean, r = 1 / sqrt(mean((x - m)^2) + eps) and z = (x - m) r:

    y = z w + b        dx = r (h - mean(h) - z mean(h z)) with h = g w        dw = sum over rows of g z        db = sum over rows of g

Everything is computed in float32 and rounded once, where it is stored. What has to be moved is x and y in the forward, and x, g and dx in
the backward: 4 and 6 bytes for each value in half precision. Weight, bias and the partial sums of their gradients stay in the L2 cache.
Without a weight it counts as one, without a bias as zero. With ADD a row is the sum of two, rounded as torch rounds it, which is stored
too; and the incoming gradient of the sum goes into its gradient.

BLOCK covers a row, and a tile is ROWS rows, held in registers and read once. A program takes one tile (STAGES is 0), or every so manieth
tile, of which the next STAGES - 1 are on their way while one is computed. MASKED says that a tile has places without a value.
"""

import triton
import triton.language as tl


@triton.jit
def block_of(pointers, inside, MASKED: tl.constexpr):
    """What is stored there, zero where nothing is."""
    if MASKED:
        values = tl.load(pointers, mask=inside, other=0.0)
    else:
        values = tl.load(pointers)
    return values


@triton.jit
def keep(pointers, values, inside, MASKED: tl.constexpr):
    """Store the values, rounded to what is pointed at."""
    if MASKED:
        tl.store(pointers, values, mask=inside)
    else:
        tl.store(pointers, values)


@triton.jit
def forward_tile(
    tile, x, other, weights, biases, y, total, means, reciprocals, x_row, x_column, other_row, other_column, count, n, eps,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    rows = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    columns = tl.arange(0, BLOCK)[None, :]
    inside = (rows < count)[:, None] & (columns < n)
    values = block_of(x + rows[:, None] * x_row + columns * x_column, inside, MASKED).to(tl.float32)
    if ADD:
        values += block_of(other + rows[:, None] * other_row + columns * other_column, inside, MASKED).to(tl.float32)
        rounded = values.to(total.dtype.element_ty)
        keep(total + rows[:, None] * n + columns, rounded, inside, MASKED)
        values = rounded.to(tl.float32)
    mean = tl.sum(values, axis=1) * (1.0 / n)
    centred = values - mean[:, None]
    if MASKED:
        centred = tl.where(inside, centred, 0.0)
    reciprocal = tl.rsqrt(tl.sum(centred * centred, axis=1) * (1.0 / n) + eps)
    result = centred * reciprocal[:, None]
    if WEIGHT:
        result = result * weights.to(tl.float32)
    if BIAS:
        result = result + biases.to(tl.float32)
    keep(y + rows[:, None] * n + columns, result, inside, MASKED)
    tl.store(means + rows, mean, mask=rows < count)
    tl.store(reciprocals + rows, reciprocal, mask=rows < count)


@triton.jit
def forward(
    x, other, weight, bias, y, total, means, reciprocals, x_row, x_column, other_row, other_column, count, n, eps,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr,
    MASKED: tl.constexpr, STAGES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, BLOCK)[None, :]
    weights, biases = 0.0, 0.0
    if WEIGHT:
        weights = block_of(weight + columns, columns < n, MASKED)
    if BIAS:
        biases = block_of(bias + columns, columns < n, MASKED)
    if STAGES == 0:
        forward_tile(
            tl.program_id(0), x, other, weights, biases, y, total, means, reciprocals,
            x_row, x_column, other_row, other_column, count, n, eps, WEIGHT, BIAS, ADD, MASKED, ROWS, BLOCK,
        )  # fmt: skip
    else:
        for tile in tl.range(tl.program_id(0), tl.cdiv(count, ROWS), tl.num_programs(0), num_stages=STAGES):
            forward_tile(
                tile, x, other, weights, biases, y, total, means, reciprocals,
                x_row, x_column, other_row, other_column, count, n, eps, WEIGHT, BIAS, ADD, MASKED, ROWS, BLOCK,
            )  # fmt: skip


@triton.jit
def backward_tile(
    tile, grad, grad_total, x, weights, means, reciprocals, grad_x,
    grad_row, grad_column, total_row, total_column, x_row, x_column, count, n,
    WEIGHT: tl.constexpr, ADD: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store the gradients of the rows; what comes back is what they add to the gradients of weight and bias."""
    rows = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    columns = tl.arange(0, BLOCK)[None, :]
    inside = (rows < count)[:, None] & (columns < n)
    values = block_of(x + rows[:, None] * x_row + columns * x_column, inside, MASKED).to(tl.float32)
    incoming = block_of(grad + rows[:, None] * grad_row + columns * grad_column, inside, MASKED).to(tl.float32)
    mean = tl.load(means + rows, mask=rows < count, other=0.0)[:, None]
    reciprocal = tl.load(reciprocals + rows, mask=rows < count, other=0.0)[:, None]
    z = (values - mean) * reciprocal
    outgoing = incoming
    if WEIGHT:
        outgoing = incoming * weights.to(tl.float32)
    # Where there is no value, the incoming gradient is zero, and so is all that depends on it.
    along_mean = (tl.sum(outgoing, axis=1) * (1.0 / n))[:, None]
    along_z = (tl.sum(outgoing * z, axis=1) * (1.0 / n))[:, None]
    result = (outgoing - along_mean - z * along_z) * reciprocal
    if ADD:
        result += block_of(grad_total + rows[:, None] * total_row + columns * total_column, inside, MASKED).to(tl.float32)
    keep(grad_x + rows[:, None] * n + columns, result, inside, MASKED)
    return incoming * z, incoming


@triton.jit
def backward(
    grad, grad_total, x, weight, means, reciprocals, grad_x, weight_partial, bias_partial,
    grad_row, grad_column, total_row, total_column, x_row, x_column, count, n,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr,
    MASKED: tl.constexpr, STAGES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program leaves what its tiles add to the gradients of weight and bias in its rows of the partial sums."""
    columns = tl.arange(0, BLOCK)[None, :]
    weights = 0.0
    if WEIGHT:
        weights = block_of(weight + columns, columns < n, MASKED)
    if STAGES == 0:
        to_weight, to_bias = backward_tile(
            tl.program_id(0), grad, grad_total, x, weights, means, reciprocals, grad_x,
            grad_row, grad_column, total_row, total_column, x_row, x_column, count, n, WEIGHT, ADD, MASKED, ROWS, BLOCK,
        )  # fmt: skip
    else:
        to_weight = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
        to_bias = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
        for tile in tl.range(tl.program_id(0), tl.cdiv(count, ROWS), tl.num_programs(0), num_stages=STAGES):
            of_weight, of_bias = backward_tile(
                tile, grad, grad_total, x, weights, means, reciprocals, grad_x,
                grad_row, grad_column, total_row, total_column, x_row, x_column, count, n, WEIGHT, ADD, MASKED, ROWS, BLOCK,
            )  # fmt: skip
            to_weight += of_weight
            to_bias += of_bias
    places = tl.arange(0, BLOCK)
    here = tl.program_id(0).to(tl.int64) * n + places
    if WEIGHT:
        tl.store(weight_partial + here, tl.sum(to_weight, axis=0), mask=places < n)
    if BIAS:
        tl.store(bias_partial + here, tl.sum(to_bias, axis=0), mask=places < n)


@triton.jit
def column_sums(partial, out, count, n, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The sums of some columns, always in the same order, rounded to what `out` has."""
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]
    total = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    for start in range(0, count, ROWS):
        rows = start + tl.arange(0, ROWS)[:, None]
        total += tl.load(partial + rows.to(tl.int64) * n + columns, mask=(rows < count) & (columns < n), other=0.0)
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + places, tl.sum(total, axis=0), mask=places < n)


@triton.jit
def summed(weight_partial, bias_partial, grad_weight, grad_bias, count, n, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The gradients of weight (programs 0, ... of the second axis) and bias from their partial sums."""
    if tl.program_id(1) == 0:
        column_sums(weight_partial, grad_weight, count, n, ROWS, BLOCK)
    else:
        column_sums(bias_partial, grad_bias, count, n, ROWS, BLOCK)
