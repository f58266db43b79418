"""The Triton kernels of the causal depthwise convolution: forward, and both gradients.

Each channel has WIDTH weights and is convolved with its own past:

    u[t] = bias + sum over k of w[k] x[t - WIDTH + 1 + k]        y = silu(u), or u
    h = g silu'(u)        dx[t] = sum over k of w[k] h[t + WIDTH - 1 - k]        dw[k] = sum over t of h[t] x[t - WIDTH + 1 + k]

A program has a tile of channels and times. The shifted tiles of x come from the L1 cache, so what has to be moved is x and y in the forward
and x, g and dx in the backward; u is computed again there, WIDTH times, which is cheaper than to write it. Everything is computed in
float32 and rounded once, where it is stored.
"""

import triton
import triton.language as tl


@triton.jit
def shifted(pointers, channels, times, channel_stride, time_stride, inside_channels, length):
    """A tile at some times, of which those before the first and after the last are zero."""
    inside = inside_channels & (times >= 0) & (times < length)
    return tl.load(pointers + channels * channel_stride + times * time_stride, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def convolved(
    x,
    weight,
    bias,
    channels,
    times,
    x_channel,
    x_time,
    inside_channels,
    length,
    BIAS: tl.constexpr,
    WIDTH: tl.constexpr,
    LIKE: tl.constexpr,
):
    """The convolution at some times, before the activation. LIKE is the shape of the tile."""
    total = tl.zeros(LIKE, dtype=tl.float32)
    if BIAS:
        total += tl.load(bias + channels, mask=inside_channels, other=0.0).to(tl.float32)
    for k in tl.static_range(WIDTH):
        factor = tl.load(weight + channels * WIDTH + k, mask=inside_channels, other=0.0).to(tl.float32)
        total += factor * shifted(x, channels, times - (WIDTH - 1 - k), x_channel, x_time, inside_channels, length)
    return total


@triton.jit
def tile_of(count, length, CHANNELS: tl.constexpr, TIMES: tl.constexpr):
    """The batch, channels and times of a program."""
    blocks = tl.cdiv(length, TIMES)
    place = tl.program_id(0)
    channels = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[:, None]
    times = (place % blocks) * TIMES + tl.arange(0, TIMES)[None, :]
    return (place // blocks).to(tl.int64), channels.to(tl.int64), times.to(tl.int64), channels < count


@triton.jit
def forward(
    x,
    weight,
    bias,
    y,
    x_batch,
    x_channel,
    x_time,
    y_batch,
    y_channel,
    count,
    length,
    BIAS: tl.constexpr,
    SILU: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    TIMES: tl.constexpr,
):
    batch, channels, times, inside = tile_of(count, length, CHANNELS, TIMES)
    x += batch * x_batch
    result = convolved(x, weight, bias, channels, times, x_channel, x_time, inside, length, BIAS, WIDTH, [CHANNELS, TIMES])
    if SILU:
        result = result * tl.sigmoid(result)
    tl.store(y + batch * y_batch + channels * y_channel + times, result, mask=inside & (times < length))


@triton.jit
def backward(
    grad,
    x,
    weight,
    bias,
    grad_x,
    partial,
    grad_batch,
    grad_channel,
    grad_time,
    x_batch,
    x_channel,
    x_time,
    out_batch,
    out_channel,
    out_time,
    count,
    length,
    BIAS: tl.constexpr,
    SILU: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    TIMES: tl.constexpr,
):
    """`partial` gets, per program and channel, what its times add to the gradients of WIDTH weights and the bias."""
    batch, channels, times, inside = tile_of(count, length, CHANNELS, TIMES)
    x += batch * x_batch
    grad += batch * grad_batch
    partial += (tl.program_id(0).to(tl.int64) * count + channels) * (WIDTH + 1)
    total = tl.zeros([CHANNELS, TIMES], dtype=tl.float32)
    for shift in tl.static_range(WIDTH):
        later = times + shift
        h = shifted(grad, channels, later, grad_channel, grad_time, inside, length)
        if SILU:
            u = convolved(x, weight, bias, channels, later, x_channel, x_time, inside, length, BIAS, WIDTH, [CHANNELS, TIMES])
            sigmoid = tl.sigmoid(u)
            h = h * sigmoid * (1 + u * (1 - sigmoid))
        total += tl.load(weight + channels * WIDTH + (WIDTH - 1 - shift), mask=inside, other=0.0).to(tl.float32) * h
        if shift == 0:
            for k in tl.static_range(WIDTH):
                product = h * shifted(x, channels, times - (WIDTH - 1 - k), x_channel, x_time, inside, length)
                tl.store(partial + k, tl.sum(product, axis=1)[:, None], mask=inside)
            tl.store(partial + WIDTH, tl.sum(h, axis=1)[:, None], mask=inside)
    tl.store(grad_x + batch * out_batch + channels * out_channel + times * out_time, total, mask=inside & (times < length))
