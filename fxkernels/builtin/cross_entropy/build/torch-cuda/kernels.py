"""The Triton kernels of cross entropy: the loss of each row of logits, and the gradient of the logits.

With z a row of logits, t its target and l = log(sum(exp(z))):

    loss = l - z[t]        dz = (exp(z - l) - [column is t]) scale

The loss reads the logits once, block by block with a running maximum. The gradient reads them once more and writes as much; it may be
written over them. Everything is computed in float32. Rows whose target is `ignore` have no loss and no gradient; a target outside of the
vocabulary has the loss NaN.
"""

import triton
import triton.language as tl


@triton.jit
def losses(logits, targets, out, logarithms, row_stride, column_stride, n, ignore, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    target = tl.load(targets + row)
    highest = float("-inf")
    total = 0.0
    for start in range(0, n, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        values = tl.load(logits + columns * column_stride, mask=columns < n, other=float("-inf")).to(tl.float32)
        new = tl.maximum(highest, tl.max(values, axis=0))
        finite = tl.where(new == float("-inf"), 0.0, new)  # a vocabulary may begin with logits that are masked out
        total = total * tl.exp(highest - finite) + tl.sum(tl.exp(values - finite), axis=0)
        highest = new
    logarithm = tl.where(highest == float("-inf"), 0.0, highest) + tl.log(total)
    known = (target >= 0) & (target < n)
    chosen = tl.load(logits + target * column_stride, mask=known, other=float("nan")).to(tl.float32)
    tl.store(logarithms + row, logarithm)
    tl.store(out + row, tl.where(target == ignore, 0.0, logarithm - chosen))


@triton.jit
def gradient(
    logits,
    targets,
    logarithms,
    scale,
    out,
    row_stride,
    column_stride,
    n,
    first,
    ignore,
    OVERWRITE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Written to `out`, row after row, or over the logits, of which column 0 is that of the word `first`."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    target = tl.load(targets + row)
    logarithm = tl.load(logarithms + row)
    factor = tl.load(scale).to(tl.float32)
    columns = block * BLOCK + tl.arange(0, BLOCK)
    logits += row * row_stride
    values = tl.load(logits + columns * column_stride, mask=columns < n, other=float("-inf")).to(tl.float32)
    change = (tl.exp(values - logarithm) - tl.where(columns + first == target, 1.0, 0.0)) * factor
    change = tl.where(target == ignore, 0.0, change)
    if OVERWRITE:
        tl.store(logits + columns * column_stride, change, mask=columns < n)
    else:
        tl.store(out + row * n + columns, change, mask=columns < n)
