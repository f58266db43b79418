"""The two Triton kernels of attention with few queries: partial results of parts of the keys, and their sum.

With q one of the rows that share a key head, n keys and values k, v of size d, scale c and mask m:

    s_j = c q k_j + m_j      o = sum_j exp(s_j) v_j / sum_j exp(s_j)

With a soft cap b, the product p = c q k_j becomes b tanh(p / b) = b (2 sigmoid(2 p / b) - 1) before the mask is added. A sink t of a head
is one more term exp(t) of the lower sum.

The sums run over blocks of keys with the running maximum of the scores taken out (online softmax: Milakov and Gimelshein, 2018, arXiv
1805.02867; over parts of the keys: Flash-Decoding, Dao and others, 2023). Scores, sums and accumulators are float32; exponentials are
powers of two. 4 n d operations for a row. Keys and values are moved once, 2 n d values of each key head; a part also moves d + 2 float32
values of each row twice. So a call takes as long as its keys and values take to be read.

A program has all rows of one key head, the queries of GROUP heads, as one tile: so matrix units are used, and a row costs nothing more.
"""

import triton
import triton.language as tl


@triton.jit
def last_seen(mask, rows, count, mask_row, mask_column, length, ADDED: tl.constexpr, BLOCK: tl.constexpr):
    """One more than the last key that some row sees. A static cache is longer than what it holds, and its end is masked.

    The search begins at the end: what is masked there is all that it reads of the mask, and the keys behind are not read at all.
    """
    columns = tl.arange(0, BLOCK)
    last = 0
    end = length
    while (last == 0) & (end > 0):
        places = end - BLOCK + columns
        inside = (rows < count)[:, None] & (places >= 0)[None, :]
        at = mask + rows[:, None] * mask_row + places[None, :] * mask_column
        if ADDED:
            seen = tl.load(at, mask=inside, other=-float("inf")) != -float("inf")
        else:
            seen = tl.load(at, mask=inside, other=0) != 0
        last = tl.max(tl.max(tl.where(seen, places[None, :] + 1, 0), 1), 0)
        end -= BLOCK
    return last


@triton.jit
def with_sink(sums, peak, sink):
    """A sum of exponentials, the maximum of whose exponents is taken out, with one more score."""
    return sums + tl.exp2(sink.to(tl.float32) * 1.4426950408889634 - tl.where(peak == -float("inf"), 0.0, peak))


@triton.jit
def attend_to_a_part(
    query, key, value, mask, sinks, out, part, greatest, total,
    query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head, value_row,
    mask_batch, mask_row, mask_column, out_batch, out_head, out_row, length, parts,
    SCALE: tl.constexpr, SOFTCAP: tl.constexpr, SINKS: tl.constexpr,
    KEY_HEADS: tl.constexpr, GROUP: tl.constexpr, QUERIES: tl.constexpr, SIZE: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SCAN: tl.constexpr,
    MASKED: tl.constexpr, ADDED: tl.constexpr, IN_PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The attention of one key head's rows to one part of the keys; with IN_PARTS not yet divided by its sum."""
    number, pair = tl.program_id(0), tl.program_id(1)
    batch, head = (pair // KEY_HEADS).to(tl.int64), pair % KEY_HEADS
    rows, width, block = tl.arange(0, ROWS), tl.arange(0, WIDTH), tl.arange(0, BLOCK)
    member, position = head * GROUP + rows // QUERIES, rows % QUERIES
    is_row, is_value = rows < GROUP * QUERIES, width < SIZE

    at = query + batch * query_batch + member[:, None] * query_head + position[:, None] * query_row + width[None, :]
    q = tl.load(at, mask=is_row[:, None] & is_value[None, :], other=0.0)
    key += batch * key_batch + head.to(tl.int64) * key_head
    value += batch * value_batch + head.to(tl.int64) * value_head
    if MASKED:
        mask += batch * mask_batch
        positions = tl.arange(0, SCAN)
        length = last_seen(mask, positions, QUERIES, mask_row, mask_column, length, ADDED, 1024)

    step = tl.cdiv(tl.cdiv(length, BLOCK), parts) * BLOCK
    begin = number * step
    end = tl.minimum(begin + step, length)
    peak = tl.full([ROWS], -float("inf"), tl.float32)
    sums = tl.zeros([ROWS], tl.float32)
    found = tl.zeros([ROWS, WIDTH], tl.float32)
    for start in range(begin, end, BLOCK):
        places = start + block
        inside = places < end
        keys = tl.load(key + places[None, :] * key_row + width[:, None], mask=inside[None, :] & is_value[:, None], other=0.0)
        values = tl.load(value + places[:, None] * value_row + width[None, :], mask=inside[:, None] & is_value[None, :], other=0.0)
        scores = tl.dot(q, keys, input_precision=PRECISION)
        if SOFTCAP > 0.0:
            scores = (2.0 * tl.sigmoid(scores * (2.0 * SCALE / SOFTCAP)) - 1.0) * (SOFTCAP * 1.4426950408889634)
        else:
            scores = scores * (SCALE * 1.4426950408889634)
        seen = is_row[:, None] & inside[None, :]
        if MASKED:
            at_mask = mask + position[:, None] * mask_row + places[None, :] * mask_column
            if ADDED:
                scores += tl.load(at_mask, mask=seen, other=0.0).to(tl.float32) * 1.4426950408889634
            else:
                seen = seen & (tl.load(at_mask, mask=seen, other=0) != 0)
        scores = tl.where(seen, scores, -float("inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        base = tl.where(higher == -float("inf"), 0.0, higher)
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(peak - base)
        sums = sums * shrink + tl.sum(weights, 1)
        found = found * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
        peak = higher
    if IN_PARTS:
        slot = (pair * parts + number) * (GROUP * QUERIES) + rows
        tl.store(greatest + slot, peak, mask=is_row)
        tl.store(total + slot, sums, mask=is_row)
        tl.store(part + slot[:, None].to(tl.int64) * SIZE + width[None, :], found, mask=is_row[:, None] & is_value[None, :])
    else:
        if SINKS:
            sums = with_sink(sums, peak, tl.load(sinks + member, mask=is_row, other=0.0))
        found = found / tl.where(sums == 0.0, 1.0, sums)[:, None]
        at = out + batch * out_batch + member[:, None] * out_head + position[:, None] * out_row + width[None, :]
        tl.store(at, found.to(out.dtype.element_ty), mask=is_row[:, None] & is_value[None, :])


@triton.jit
def add_the_parts(
    sinks, part, greatest, total, out, out_batch, out_head, out_row, parts,
    SINKS: tl.constexpr, KEY_HEADS: tl.constexpr, GROUP: tl.constexpr, QUERIES: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    """One row's result from those of all parts, each with its own maximum taken out."""
    pair, row = tl.program_id(0), tl.program_id(1)
    batch, head = (pair // KEY_HEADS).to(tl.int64), pair % KEY_HEADS
    numbers, width = tl.arange(0, PARTS), tl.arange(0, WIDTH)
    slot = (pair * parts + numbers) * (GROUP * QUERIES) + row
    inside, is_value = numbers < parts, width < SIZE
    peaks = tl.load(greatest + slot, mask=inside, other=-float("inf"))
    sums = tl.load(total + slot, mask=inside, other=0.0)
    at = part + slot[:, None].to(tl.int64) * SIZE + width[None, :]
    found = tl.load(at, mask=inside[:, None] & is_value[None, :], other=0.0)
    peak = tl.max(peaks, 0)
    weights = tl.exp2(peaks - tl.where(peak == -float("inf"), 0.0, peak))
    whole = tl.sum(weights * sums, 0)
    if SINKS:
        whole = with_sink(whole, peak, tl.load(sinks + head * GROUP + row // QUERIES))
    result = tl.sum(weights[:, None] * found, 0) / tl.where(whole == 0.0, 1.0, whole)
    at_out = out + batch * out_batch + (head * GROUP + row // QUERIES) * out_head + (row % QUERIES) * out_row + width
    tl.store(at_out, result.to(out.dtype.element_ty), mask=is_value)
