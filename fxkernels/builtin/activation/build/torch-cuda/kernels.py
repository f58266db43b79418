"""The Triton kernels of all activations, gated (two inputs) and plain (one): forward and backward of each.

With f one of SiLU, GELU (by erf), GELU (by tanh) and quick GELU:

    gated: y = f(gate) up      dgate = g up f'(gate)      dup = g f(gate)
    plain: y = f(x)            dx = g f'(x)

Everything is computed in float32 and rounded once, where it is stored. What has to be moved is each input and each output once: three and
five tensors of the size of y for the gated ones, two and three for the plain ones; in half precision 6 and 10, 4 and 6 bytes for a value.

A program has a tile of ROWS times BLOCK results, and BLOCKS of them cover a row. MASKED says that some tile has places without a value.

The formulas are written without cancellation: (1 + tanh(u)) / 2 is sigmoid(2 u).
"""

import triton
import triton.language as tl


@triton.jit
def sigmoid_of(x, FUNCTION: tl.constexpr):
    """For the functions of the form x sigmoid(p(x)): the sigmoid, and the slope of p."""
    if FUNCTION == "gelu_tanh":
        square = x * x
        inner = 1.5957691216057308 * x * (1 + 0.044715 * square)  # 2 sqrt(2 / pi)
        slope = 1.5957691216057308 * (1 + 3 * 0.044715 * square)
    elif FUNCTION == "quick_gelu":
        inner = 1.702 * x
        slope = tl.full(x.shape, 1.702, tl.float32)
    else:  # silu
        inner = x
        slope = tl.full(x.shape, 1.0, tl.float32)
    return tl.sigmoid(inner), slope


@triton.jit
def value_of(x, FUNCTION: tl.constexpr):
    """f(x)."""
    if FUNCTION == "gelu":
        result = x * (0.5 + 0.5 * tl.erf(x * 0.7071067811865476))
    else:
        sigmoid, _ = sigmoid_of(x, FUNCTION)
        result = x * sigmoid
    return result


@triton.jit
def slope_of(x, FUNCTION: tl.constexpr):
    """f'(x)."""
    if FUNCTION == "gelu":
        result = 0.5 + 0.5 * tl.erf(x * 0.7071067811865476) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    else:
        sigmoid, slope = sigmoid_of(x, FUNCTION)
        result = sigmoid + x * slope * sigmoid * (1 - sigmoid)
    return result


@triton.jit
def plain_forward(x, y, count, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    tl.store(y + places, value_of(tl.load(x + places, mask=inside, other=0.0).to(tl.float32), FUNCTION), mask=inside)


@triton.jit
def plain_backward(grad, x, grad_x, count, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    incoming = tl.load(grad + places, mask=inside, other=0.0).to(tl.float32)
    values = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(grad_x + places, incoming * slope_of(values, FUNCTION), mask=inside)


@triton.jit
def block_of(pointers, inside, MASKED: tl.constexpr):
    """What is stored there in float32, zero where nothing is."""
    if MASKED:
        values = tl.load(pointers, mask=inside, other=0.0)
    else:
        values = tl.load(pointers)
    return values.to(tl.float32)


@triton.jit
def keep(pointers, values, inside, MASKED: tl.constexpr):
    """Store the values, rounded to what is pointed at."""
    if MASKED:
        tl.store(pointers, values, mask=inside)
    else:
        tl.store(pointers, values)


@triton.jit
def tile_of(count, n, BLOCKS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The rows and columns of a program, and which of them there are. Neighbouring programs have neighbouring columns.

    A division by a number that is not known when the kernel is compiled would take a good part of a short call.
    """
    program = tl.program_id(0)
    rows = (program // BLOCKS).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = (program % BLOCKS) * BLOCK + tl.arange(0, BLOCK)[None, :]
    return rows, columns, (rows < count) & (columns < n)


@triton.jit
def gated_forward(
    gate, up, y, gate_row, gate_column, up_row, up_column, count, n, FUNCTION: tl.constexpr, MASKED: tl.constexpr,
    BLOCKS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    rows, columns, inside = tile_of(count, n, BLOCKS, ROWS, BLOCK)
    gates = block_of(gate + rows * gate_row + columns * gate_column, inside, MASKED)
    ups = block_of(up + rows * up_row + columns * up_column, inside, MASKED)
    keep(y + rows * n + columns, value_of(gates, FUNCTION) * ups, inside, MASKED)


@triton.jit
def gated_backward(
    grad, gate, up, grad_gate, grad_up, grad_row, grad_column, gate_row, gate_column, up_row, up_column, out_row, count, n,
    FUNCTION: tl.constexpr, MASKED: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gate and up may be halves of one tensor. Both gradients then go into one, which autograd would fill with zeros first, twice."""
    rows, columns, inside = tile_of(count, n, BLOCKS, ROWS, BLOCK)
    incoming = block_of(grad + rows * grad_row + columns * grad_column, inside, MASKED)
    gates = block_of(gate + rows * gate_row + columns * gate_column, inside, MASKED)
    ups = block_of(up + rows * up_row + columns * up_column, inside, MASKED)
    keep(grad_gate + rows * out_row + columns, incoming * ups * slope_of(gates, FUNCTION), inside, MASKED)
    keep(grad_up + rows * out_row + columns, incoming * value_of(gates, FUNCTION), inside, MASKED)
