"""The Triton kernels of all RMSNorms for rows that fit into the registers of a program: forward, backward, and the sum of partial sums.

With x a row of n values, r = 1 / sqrt(mean(x^2) + eps), u = w + OFFSET and a = act(gate), or 1 where there is no gate:

    y = x r u a        dx = r (h - x r^2 / n sum(h x)) with h = g a u        dw = sum over rows of g a x r        dgate = g x r u act'(gate)

Everything is computed in float32 and rounded once, where it is stored. What has to be moved is x and y in the forward, and x, g and dx in
the backward, with gate and dgate where there is a gate: 4 and 6 bytes for each value in half precision, 6 and 10 with a gate. The weight
and the partial sums of its gradient stay in the L2 cache.

With ADD a row is the sum of two, rounded as torch rounds it, which is stored too; and the incoming gradient of the sum goes into its
gradient.

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
def activated(gate, ACTIVATION: tl.constexpr):
    """The activation of the gate and its derivative."""
    sigmoid = tl.sigmoid(gate)
    if ACTIVATION == "sigmoid":
        value = sigmoid
        slope = sigmoid * (1 - sigmoid)
    else:
        value = gate * sigmoid
        slope = sigmoid * (1 + gate * (1 - sigmoid))
    return value, slope


@triton.jit
def forward_tile(
    tile, x, other, weights, gate, y, total, reciprocals, x_row, x_column, other_row, other_column, gate_row, gate_column, count, n, eps,
    OFFSET: tl.constexpr, ACTIVATION: tl.constexpr, ADD: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
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
    if ACTIVATION != "none":
        gates = block_of(gate + rows[:, None] * gate_row + columns * gate_column, inside, MASKED).to(tl.float32)
    reciprocal = tl.rsqrt(tl.sum(values * values, axis=1) * (1.0 / n) + eps)
    result = values * reciprocal[:, None] * (weights.to(tl.float32) + OFFSET)
    if ACTIVATION != "none":
        value, _ = activated(gates, ACTIVATION)
        result = result * value
    keep(y + rows[:, None] * n + columns, result, inside, MASKED)
    tl.store(reciprocals + rows, reciprocal, mask=rows < count)


@triton.jit
def forward(
    x, other, weight, gate, y, total, reciprocals, x_row, x_column, other_row, other_column, gate_row, gate_column, count, n, eps,
    OFFSET: tl.constexpr, ACTIVATION: tl.constexpr, ADD: tl.constexpr,
    MASKED: tl.constexpr, STAGES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, BLOCK)[None, :]
    weights = block_of(weight + columns, columns < n, MASKED)
    if STAGES == 0:
        forward_tile(
            tl.program_id(0), x, other, weights, gate, y, total, reciprocals,
            x_row, x_column, other_row, other_column, gate_row, gate_column, count, n, eps, OFFSET, ACTIVATION, ADD, MASKED, ROWS, BLOCK,
        )  # fmt: skip
    else:
        for tile in tl.range(tl.program_id(0), tl.cdiv(count, ROWS), tl.num_programs(0), num_stages=STAGES):
            forward_tile(
                tile, x, other, weights, gate, y, total, reciprocals, x_row, x_column, other_row, other_column,
                gate_row, gate_column, count, n, eps, OFFSET, ACTIVATION, ADD, MASKED, ROWS, BLOCK,
            )  # fmt: skip


@triton.jit
def backward_tile(
    tile, grad, grad_total, x, weights, gate, reciprocals, grad_x, grad_gate,
    grad_row, grad_column, total_row, total_column, x_row, x_column, gate_row, gate_column, count, n,
    OFFSET: tl.constexpr, ACTIVATION: tl.constexpr, ADD: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store the gradients of the rows; what comes back is what they add to the gradient of the weight."""
    rows = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    columns = tl.arange(0, BLOCK)[None, :]
    inside = (rows < count)[:, None] & (columns < n)
    values = block_of(x + rows[:, None] * x_row + columns * x_column, inside, MASKED).to(tl.float32)
    incoming = block_of(grad + rows[:, None] * grad_row + columns * grad_column, inside, MASKED).to(tl.float32)
    reciprocal = tl.load(reciprocals + rows, mask=rows < count, other=0.0)[:, None]
    normalized = values * reciprocal
    scale = weights.to(tl.float32) + OFFSET
    if ACTIVATION != "none":
        gates = block_of(gate + rows[:, None] * gate_row + columns * gate_column, inside, MASKED).to(tl.float32)
        value, slope = activated(gates, ACTIVATION)
        keep(grad_gate + rows[:, None] * n + columns, incoming * normalized * scale * slope, inside, MASKED)
        incoming = incoming * value
    outgoing = incoming * scale
    projection = (tl.sum(outgoing * normalized, axis=1) * (1.0 / n))[:, None]
    result = (outgoing - normalized * projection) * reciprocal
    if ADD:
        result += block_of(grad_total + rows[:, None] * total_row + columns * total_column, inside, MASKED).to(tl.float32)
    keep(grad_x + rows[:, None] * n + columns, result, inside, MASKED)
    return incoming * normalized


@triton.jit
def backward(
    grad, grad_total, x, weight, gate, reciprocals, grad_x, grad_gate, partial,
    grad_row, grad_column, total_row, total_column, x_row, x_column, gate_row, gate_column, count, n,
    OFFSET: tl.constexpr, ACTIVATION: tl.constexpr, ADD: tl.constexpr,
    MASKED: tl.constexpr, STAGES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program leaves what its tiles add to the gradient of the weight in its row of `partial`."""
    columns = tl.arange(0, BLOCK)[None, :]
    weights = block_of(weight + columns, columns < n, MASKED)
    if STAGES == 0:
        total = backward_tile(
            tl.program_id(0), grad, grad_total, x, weights, gate, reciprocals, grad_x, grad_gate, grad_row, grad_column,
            total_row, total_column, x_row, x_column, gate_row, gate_column, count, n, OFFSET, ACTIVATION, ADD, MASKED, ROWS, BLOCK,
        )  # fmt: skip
    else:
        total = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
        for tile in tl.range(tl.program_id(0), tl.cdiv(count, ROWS), tl.num_programs(0), num_stages=STAGES):
            total += backward_tile(
                tile, grad, grad_total, x, weights, gate, reciprocals, grad_x, grad_gate, grad_row, grad_column,
                total_row, total_column, x_row, x_column, gate_row, gate_column, count, n, OFFSET, ACTIVATION, ADD, MASKED, ROWS, BLOCK,
            )  # fmt: skip
    places = tl.arange(0, BLOCK)
    tl.store(partial + tl.program_id(0).to(tl.int64) * n + places, tl.sum(total, axis=0), mask=places < n)


@triton.jit
def summed(partial, out, count, n, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The sums of some columns of `partial`, always in the same order, rounded to what `out` has."""
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]
    total = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    for start in range(0, count, ROWS):
        rows = start + tl.arange(0, ROWS)[:, None]
        total += tl.load(partial + rows.to(tl.int64) * n + columns, mask=(rows < count) & (columns < n), other=0.0)
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + places, tl.sum(total, axis=0), mask=places < n)
