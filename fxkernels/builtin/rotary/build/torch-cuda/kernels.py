"""The Triton kernel of all rotary embeddings, forward and backward.

A head is d / 2 pairs (a, b), and each pair is turned by an angle of its position:

    (a, b) -> (a c1 - b s1, b c2 + a s2)        back, for gradients: (a c1 + b s2, b c2 - a s1)

The layouts differ in where the pairs are: a and b lie d / 2 apart and neighbouring pairs one (half-split), or a and b lie one apart and
pairs two (interleaved). The factors of a and b are d / 2 or one apart in a full table, and the same in a half one. So four numbers say all:
`pair` and `gap` of the heads, `table_pair` and `table_gap` of cos and sin.

A program turns Q_HEADS query heads and K_HEADS key heads of one token, and reads its row of cos and sin once. What has to be moved is q and
k, in and out, 4 bytes for each value in half precision, and one row of cos and sin per token. All that is read is asked for before
anything is written, since a compiler has to think that q and out may be one memory. Everything is computed in float32 and rounded once,
where it is stored. MASKED says that a tile has places without a pair.
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
def turned(a, b, c1, c2, s1, s2, BACK: tl.constexpr):
    """The pairs, turned there or back."""
    a, b = a.to(tl.float32), b.to(tl.float32)
    if BACK:
        first = a * c1 + b * s2
        second = b * c2 - a * s1
    else:
        first = a * c1 - b * s1
        second = b * c2 + a * s2
    return first, second


@triton.jit
def rotate(
    q, k, cos, sin, out_q, out_k,
    q_batch, q_head, q_token, q_column, k_batch, k_head, k_token, k_column,
    out_q_batch, out_q_head, out_q_token, out_k_batch, out_k_head, out_k_token,
    cos_batch, cos_token, cos_column, sin_batch, sin_token, sin_column,
    tokens, q_heads, k_heads, half, pair, gap, table_pair, table_gap,
    BACK: tl.constexpr, MASKED: tl.constexpr, Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The last dimension of the outputs is dense."""
    place, group = tl.program_id(0), tl.program_id(1)
    batch, token = (place // tokens).to(tl.int64), (place % tokens).to(tl.int64)
    pairs = tl.arange(0, BLOCK)[None, :]
    heads_of_q = group * Q_HEADS + tl.arange(0, Q_HEADS)[:, None]
    heads_of_k = group * K_HEADS + tl.arange(0, K_HEADS)[:, None]
    in_q, in_k = (heads_of_q < q_heads) & (pairs < half), (heads_of_k < k_heads) & (pairs < half)
    at_q = q + batch * q_batch + token * q_token + heads_of_q.to(tl.int64) * q_head + pairs * pair * q_column
    at_k = k + batch * k_batch + token * k_token + heads_of_k.to(tl.int64) * k_head + pairs * pair * k_column
    q_a, q_b = block_of(at_q, in_q, MASKED), block_of(at_q + gap * q_column, in_q, MASKED)
    k_a, k_b = block_of(at_k, in_k, MASKED), block_of(at_k + gap * k_column, in_k, MASKED)
    at_cos = cos + batch * cos_batch + token * cos_token + pairs * table_pair * cos_column
    at_sin = sin + batch * sin_batch + token * sin_token + pairs * table_pair * sin_column
    c1 = block_of(at_cos, pairs < half, MASKED).to(tl.float32)
    c2 = block_of(at_cos + table_gap * cos_column, pairs < half, MASKED).to(tl.float32)
    s1 = block_of(at_sin, pairs < half, MASKED).to(tl.float32)
    s2 = block_of(at_sin + table_gap * sin_column, pairs < half, MASKED).to(tl.float32)
    q_a, q_b = turned(q_a, q_b, c1, c2, s1, s2, BACK)
    k_a, k_b = turned(k_a, k_b, c1, c2, s1, s2, BACK)
    at_q = out_q + batch * out_q_batch + token * out_q_token + heads_of_q.to(tl.int64) * out_q_head + pairs * pair
    at_k = out_k + batch * out_k_batch + token * out_k_token + heads_of_k.to(tl.int64) * out_k_head + pairs * pair
    keep(at_q, q_a, in_q, MASKED)
    keep(at_q + gap, q_b, in_q, MASKED)
    keep(at_k, k_a, in_k, MASKED)
    keep(at_k + gap, k_b, in_k, MASKED)
