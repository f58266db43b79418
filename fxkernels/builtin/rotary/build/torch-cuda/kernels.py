"""The Triton kernel of all rotary embeddings, forward and backward.

A head is d / 2 pairs (a, b), and each pair is turned by an angle of its position:

    (a, b) -> (a c1 - b s1, b c2 + a s2)        back, for gradients: (a c1 + b s2, b c2 - a s1)

The layouts differ in where the pairs are: a and b lie d / 2 apart and neighbouring pairs one (half-split), or a and b lie one apart and
pairs two (interleaved). The factors of a and b are d / 2 or one apart in a full table, and the same in a half one. So four numbers say all:
`pair` and `gap` of the heads, `table_pair` and `table_gap` of cos and sin.

A program turns HEADS heads of one token, queries or keys, and reads its row of cos and sin once. What has to be moved is q and k, in and
out, and one row of cos and sin per token. Everything is computed in float32 and rounded once, where it is stored.
"""

import triton
import triton.language as tl


@triton.jit
def turn(
    x,
    out,
    batch,
    token,
    head,
    x_batch,
    x_head,
    x_token,
    x_column,
    out_batch,
    out_head,
    out_token,
    heads,
    half,
    pair,
    gap,
    c1,
    c2,
    s1,
    s2,
    BACK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Turn some heads of one token. The last dimension of `out` is dense."""
    pairs = tl.arange(0, BLOCK)[None, :]
    inside = (head < heads) & (pairs < half)
    x += batch * x_batch + token * x_token + head.to(tl.int64) * x_head
    out += batch * out_batch + token * out_token + head.to(tl.int64) * out_head
    a = tl.load(x + pairs * pair * x_column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + (pairs * pair + gap) * x_column, mask=inside, other=0.0).to(tl.float32)
    if BACK:
        first = a * c1 + b * s2
        second = b * c2 - a * s1
    else:
        first = a * c1 - b * s1
        second = b * c2 + a * s2
    tl.store(out + pairs * pair, first, mask=inside)
    tl.store(out + pairs * pair + gap, second, mask=inside)


@triton.jit
def rotate(
    q,
    k,
    cos,
    sin,
    out_q,
    out_k,
    q_batch,
    q_head,
    q_token,
    q_column,
    k_batch,
    k_head,
    k_token,
    k_column,
    out_q_batch,
    out_q_head,
    out_q_token,
    out_k_batch,
    out_k_head,
    out_k_token,
    cos_batch,
    cos_token,
    cos_column,
    sin_batch,
    sin_token,
    sin_column,
    tokens,
    q_heads,
    k_heads,
    half,
    pair,
    gap,
    table_pair,
    table_gap,
    BACK: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64)
    batch, token = place // tokens, place % tokens
    group, q_groups = tl.program_id(1), tl.cdiv(q_heads, HEADS)
    pairs = tl.arange(0, BLOCK)[None, :]
    inside = pairs < half
    cos += batch * cos_batch + token * cos_token
    sin += batch * sin_batch + token * sin_token
    c1 = tl.load(cos + pairs * table_pair * cos_column, mask=inside, other=0.0).to(tl.float32)
    c2 = tl.load(cos + (pairs * table_pair + table_gap) * cos_column, mask=inside, other=0.0).to(tl.float32)
    s1 = tl.load(sin + pairs * table_pair * sin_column, mask=inside, other=0.0).to(tl.float32)
    s2 = tl.load(sin + (pairs * table_pair + table_gap) * sin_column, mask=inside, other=0.0).to(tl.float32)
    heads = tl.arange(0, HEADS)[:, None]
    if group < q_groups:
        head = group * HEADS + heads
        turn(
            q, out_q, batch, token, head, q_batch, q_head, q_token, q_column, out_q_batch, out_q_head, out_q_token,
            q_heads, half, pair, gap, c1, c2, s1, s2, BACK, BLOCK,
        )  # fmt: skip
    else:
        head = (group - q_groups) * HEADS + heads
        turn(
            k, out_k, batch, token, head, k_batch, k_head, k_token, k_column, out_k_batch, out_k_head, out_k_token,
            k_heads, half, pair, gap, c1, c2, s1, s2, BACK, BLOCK,
        )  # fmt: skip
