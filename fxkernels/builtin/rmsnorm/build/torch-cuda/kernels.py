"""The Triton kernels of all RMSNorms: one forward, one backward.

With x a row of n values, r = 1 / sqrt(mean(x^2) + eps), u = w + OFFSET and a = act(gate), or 1 where there is no gate:

    y = x r u a        dx = r (h - x r^2 / n sum(h x)) with h = g a u        dw = sum over rows of g a x r        dgate = g x r u act'(gate)

Everything is computed in float32 and rounded once, where it is stored. What has to be moved is x and y in the forward, and x, g and dx in
the backward, with gate and dgate where there is a gate; the weight and the partial sums of its gradient stay in the L2 cache.

`WHOLE` says that BLOCK covers a row, which then is held in registers and read once; with short rows a program takes ROWS at a time. Longer
rows are read twice, the second time mostly from the L2 cache.
"""

import triton
import triton.language as tl


@triton.jit
def loaded(pointers, columns, stride, inside):
    """A block of rows, in float32."""
    return tl.load(pointers + columns * stride, mask=inside, other=0.0).to(tl.float32)


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
def scaled(normalized, weight, gate, columns, gate_column, inside, OFFSET: tl.constexpr, ACTIVATION: tl.constexpr):
    """The normalised values times weight and gate."""
    result = normalized * (loaded(weight, columns, 1, inside) + OFFSET)
    if ACTIVATION != "none":
        value, _ = activated(loaded(gate, columns, gate_column, inside), ACTIVATION)
        result = result * value
    return result


@triton.jit
def forward(
    x,
    weight,
    gate,
    y,
    reciprocals,
    x_row,
    x_column,
    gate_row,
    gate_column,
    count,
    n,
    eps,
    OFFSET: tl.constexpr,
    ACTIVATION: tl.constexpr,
    WHOLE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    present = rows < count
    x, y, gate = x + rows[:, None] * x_row, y + rows[:, None] * n, gate + rows[:, None] * gate_row
    if WHOLE:
        columns = tl.arange(0, BLOCK)[None, :]
        inside = present[:, None] & (columns < n)
        values = loaded(x, columns, x_column, inside)
        reciprocal = 1.0 / tl.sqrt(tl.sum(values * values, axis=1) / n + eps)
        normalized = values * reciprocal[:, None]
        tl.store(y + columns, scaled(normalized, weight, gate, columns, gate_column, inside, OFFSET, ACTIVATION), mask=inside)
    else:
        squares = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
        for start in range(0, n, BLOCK):
            columns = start + tl.arange(0, BLOCK)[None, :]
            values = loaded(x, columns, x_column, present[:, None] & (columns < n))
            squares += values * values
        reciprocal = 1.0 / tl.sqrt(tl.sum(squares, axis=1) / n + eps)
        for start in range(0, n, BLOCK):
            columns = start + tl.arange(0, BLOCK)[None, :]
            inside = present[:, None] & (columns < n)
            normalized = loaded(x, columns, x_column, inside) * reciprocal[:, None]
            tl.store(y + columns, scaled(normalized, weight, gate, columns, gate_column, inside, OFFSET, ACTIVATION), mask=inside)
    tl.store(reciprocals + rows, reciprocal, mask=present)


@triton.jit
def gradients(grad, gate, weight, normalized, columns, grad_column, gate_column, inside, OFFSET: tl.constexpr, ACTIVATION: tl.constexpr):
    """The gradient of the normalised values, what the rows add to the gradient of the weight, and the gradient of the gate."""
    incoming = loaded(grad, columns, grad_column, inside)
    scale = loaded(weight, columns, 1, inside) + OFFSET
    of_gate = incoming
    if ACTIVATION != "none":
        value, slope = activated(loaded(gate, columns, gate_column, inside), ACTIVATION)
        of_gate = incoming * normalized * scale * slope
        incoming = incoming * value
    return incoming * scale, incoming * normalized, of_gate


@triton.jit
def backward(
    grad,
    x,
    weight,
    gate,
    reciprocals,
    grad_x,
    grad_gate,
    partial,
    grad_row,
    grad_column,
    x_row,
    x_column,
    gate_row,
    gate_column,
    count,
    n,
    each,
    OFFSET: tl.constexpr,
    ACTIVATION: tl.constexpr,
    WHOLE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program takes `each` times ROWS rows in a row, and leaves what they add to the gradient of the weight in its row of `partial`."""
    program = tl.program_id(0).to(tl.int64)
    partial += program * n
    total = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    for step in range(each):
        rows = (program * each + step) * ROWS + tl.arange(0, ROWS)
        present = (rows < count)[:, None]
        reciprocal = tl.load(reciprocals + rows, mask=rows < count, other=0.0)[:, None]
        at_x, at_grad, at_gate = x + rows[:, None] * x_row, grad + rows[:, None] * grad_row, gate + rows[:, None] * gate_row
        at_grad_x, at_grad_gate = grad_x + rows[:, None] * n, grad_gate + rows[:, None] * n
        if WHOLE:
            columns = tl.arange(0, BLOCK)[None, :]
            inside = present & (columns < n)
            normalized = loaded(at_x, columns, x_column, inside) * reciprocal
            outgoing, to_weight, of_gate = gradients(
                at_grad, at_gate, weight, normalized, columns, grad_column, gate_column, inside, OFFSET, ACTIVATION
            )
            projection = (tl.sum(outgoing * normalized, axis=1) / n)[:, None]
            tl.store(at_grad_x + columns, (outgoing - normalized * projection) * reciprocal, mask=inside)
            if ACTIVATION != "none":
                tl.store(at_grad_gate + columns, of_gate, mask=inside)
            total += to_weight
        else:
            products = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
            for start in range(0, n, BLOCK):
                columns = start + tl.arange(0, BLOCK)[None, :]
                inside = present & (columns < n)
                normalized = loaded(at_x, columns, x_column, inside) * reciprocal
                outgoing, _, _ = gradients(
                    at_grad, at_gate, weight, normalized, columns, grad_column, gate_column, inside, OFFSET, ACTIVATION
                )
                products += outgoing * normalized
            projection = (tl.sum(products, axis=1) / n)[:, None]
            for start in range(0, n, BLOCK):
                columns = start + tl.arange(0, BLOCK)[None, :]
                inside = present & (columns < n)
                normalized = loaded(at_x, columns, x_column, inside) * reciprocal
                outgoing, to_weight, of_gate = gradients(
                    at_grad, at_gate, weight, normalized, columns, grad_column, gate_column, inside, OFFSET, ACTIVATION
                )
                tl.store(at_grad_x + columns, (outgoing - normalized * projection) * reciprocal, mask=inside)
                if ACTIVATION != "none":
                    tl.store(at_grad_gate + columns, of_gate, mask=inside)
                # The sums of a long row do not fit into registers: they are in this program's row of `partial`, which is nobody else's.
                here = partial + columns
                before = tl.load(here, mask=(columns < n) & (step > 0), other=0.0)
                tl.store(here, before + to_weight, mask=columns < n)
            tl.debug_barrier()  # the next row's loads are after these stores, whichever thread makes them
    if WHOLE:
        places = tl.arange(0, BLOCK)
        tl.store(partial + places, tl.sum(total, axis=0), mask=places < n)
