"""How far two computations of one layer may differ, per dtype. One table for all tests."""

from __future__ import annotations

import torch

# How often a value is rounded on its way through a layer, at most. In the half-precision dtypes our layers round a result up to four times
# (Llama's norm: normalised value, product, and the same in the backward); what happens in float32 in between does not show. In float32
# and float64 the sums count: n terms, added in the vectorised tree of torch, lose about log2(n) roundings on either side, 24 for 4096.
_ROUNDINGS = {torch.bfloat16: 4, torch.float16: 4, torch.float32: 32, torch.float64: 32}

# Where terms cancel (``x1 * cos - x2 * sin``), the error is that of the terms, and standard normal tensors of test size reach about 4.
_LARGEST_TERM = 4


def tolerance(dtype: torch.dtype, depth: int = 1) -> dict[str, float]:
    """Return the keywords of `torch.testing.assert_close` for results in `dtype` from inputs of order one.

    Args:
        dtype: The dtype that the compared computation rounds to.
        depth: Layers in a row, whose errors add up.

    Example:
        >>> torch.testing.assert_close(y, reference(x), **tolerance(y.dtype))
    """
    unit_roundoff = torch.finfo(dtype).eps / 2
    rtol = depth * _ROUNDINGS[dtype] * unit_roundoff
    return {"rtol": rtol, "atol": _LARGEST_TERM * rtol}
