"""Attention as a function of tensors: into how many parts the keys are cut, and what is launched on which grid."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from . import kernels

__all__ = ["grouped_attention"]

_MOST_PARTS = 64
_SHORTEST_PART = 128
"""Keys of a part. Shorter parts cost more in the sum of the parts than they gain by running side by side."""


def grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float | None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Return the attention of a few queries, (batch, heads, queries, size), laid out like (batch, queries, heads, size).

    Args:
        query: (batch, heads, queries, size).
        key: (batch, key heads, keys, size); heads are a multiple of key heads.
        value: As `key`.
        mask: None, or true where a query sees a key, or a number that is added to the score: (batch or 1, 1, queries or 1, keys).
        scale: What the products are multiplied with; None for the reciprocal root of the size.
        softcap: What scores are bent to stay below, before the mask is added; None for no bound.
        sinks: One more score for each head, without a value; or None.
    """
    batch, heads, queries, size = query.shape
    key_heads, length = key.shape[1], key.shape[2]
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    out = torch.empty((batch, queries, heads, size), dtype=query.dtype, device=query.device).transpose(1, 2)
    parts = _parts(batch * key_heads, length, query.device)
    group = heads // key_heads
    shapes = {"KEY_HEADS": key_heads, "GROUP": group, "QUERIES": queries, "SIZE": size, "WIDTH": max(16, triton.next_power_of_2(size))}
    shapes["SINKS"] = sinks is not None
    given_sinks = sinks.contiguous() if sinks is not None else query
    in_parts = parts > 1
    slots = batch * key_heads * parts * group * queries if in_parts else 1
    part = torch.empty((slots, size if in_parts else 1), dtype=torch.float32, device=query.device)
    greatest, total = torch.empty((2, slots), dtype=torch.float32, device=query.device)
    seen = mask[:, 0].expand(batch, queries, length) if mask is not None else None
    block, warps, stages = _tile(size, query.dtype)
    kernels.attend_to_a_part[(parts, batch * key_heads)](
        *(query, key, value, seen if seen is not None else query, given_sinks, out, part, greatest, total),
        *(*query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *(seen.stride() if seen is not None else (0, 0, 0))),
        *(*out.stride()[:3], length, parts),
        SCALE=scale if scale is not None else size**-0.5,
        SOFTCAP=softcap if softcap is not None else 0.0,
        ROWS=max(16, triton.next_power_of_2(group * queries)),
        BLOCK=block,
        SCAN=triton.next_power_of_2(queries),
        MASKED=seen is not None,
        ADDED=seen is not None and seen.dtype is not torch.bool,
        IN_PARTS=in_parts,
        PRECISION="ieee",
        num_warps=warps,
        num_stages=stages,
        **shapes,
    )
    if in_parts:
        grid = (batch * key_heads, group * queries)
        kernels.add_the_parts[grid](
            given_sinks, part, greatest, total, out, *out.stride()[:3], parts, PARTS=_MOST_PARTS, num_warps=2, **shapes
        )
    return out


def _parts(programs: int, length: int, device: torch.device) -> int:
    """Into how many parts the keys are cut: as many as it takes for two programs on each multiprocessor, but no short ones."""
    processors = 132
    if device.type == "cuda" and torch.cuda.is_available():
        processors = torch.cuda.get_device_properties(device).multi_processor_count
    wanted = min(_MOST_PARTS, max(1, 2 * processors // programs))
    return torch.sym_min(wanted, (length + _SHORTEST_PART - 1) // _SHORTEST_PART) if wanted > 1 else 1  # type: ignore[no-any-return]


def _tile(size: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Keys of a block, warps, and stages. Blocks of 16 KiB in three stages were fastest on an H200, or within 4 % of it (64, 128)."""
    width = max(16, triton.next_power_of_2(size))
    block = max(16, min(128, (16 << 10) // (width * dtype.itemsize)))
    return block, 4, 3
