"""The Triton kernels of the causal depthwise convolution: forward, both gradients, and the sum of partial sums.

Each channel has WIDTH weights and is convolved with its own past:

    u[t] = bias + sum over k of w[k] x[t - WIDTH + 1 + k]        y = silu(u), or u
    h = g silu'(u)        dx[t] = sum over k of w[k] h[t + WIDTH - 1 - k]        dw[k] = sum over t of h[t] x[t - WIDTH + 1 + k]

What has to be moved is x and y in the forward, and x, g and dx in the backward: 4 and 6 bytes for each value in half precision. A program
has CHANNELS channels and goes through time, STEPS times at once, which are in registers (`times.py`). The WIDTH - 1 times around them are
read again, from the L1 cache, and h is computed again there. Everything is computed in float32 and rounded once, where it is stored.
"""

# ruff: noqa: RUF005 - Triton knows no starred expressions (3.7)

import triton
import triton.language as tl

from .times import keep, single_times, times_of


@triton.jit
def place_of(count, length, each, CHANNELS: tl.constexpr, STEPS: tl.constexpr):
    """The batch of a program, its first time, its channels, and which of them there are."""
    stretches = tl.cdiv(length, each * STEPS)
    place = tl.program_id(0)
    channels = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)).to(tl.int64)
    return (place // stretches).to(tl.int64), (place % stretches).to(tl.int64) * each * STEPS, channels, channels < count


@triton.jit
def past_of(x, channels, inside, first, rest, time, WIDTH: tl.constexpr):
    """The values at the WIDTH - 1 times before number 0, which is the time `first`; zero before the first one of all."""
    values = ()
    for n in tl.static_range(1 - WIDTH, 0):
        values = values + (tl.load(x + channels + (first + n) * time, mask=inside & (first + n >= 0) & (rest > n), other=0.0),)
    return values


@triton.jit
def weights_of(weight, bias, channels, inside, BIAS: tl.constexpr, WIDTH: tl.constexpr):
    """The weights of the channels, and then the bias."""
    factors = ()
    for k in tl.static_range(WIDTH):
        factors = factors + (tl.load(weight + channels * WIDTH + k, mask=inside, other=0.0).to(tl.float32),)
    if BIAS:
        factors = factors + (tl.load(bias + channels, mask=inside, other=0.0).to(tl.float32),)
    else:
        factors = factors + (tl.zeros(channels.shape, dtype=tl.float32),)
    return factors


@triton.jit
def convolved(values, factors, n: tl.constexpr, WIDTH: tl.constexpr):
    """The convolution at the time whose value is number n + WIDTH - 1, before the activation."""
    total = factors[WIDTH]
    for k in tl.static_range(WIDTH):
        total += factors[k] * values[n + k].to(tl.float32)
    return total


@triton.jit
def forward(
    x, weight, bias, y, x_batch, x_channel, x_time, y_batch, y_channel, count, length, each, BIAS: tl.constexpr, SILU: tl.constexpr,
    WIDTH: tl.constexpr, TIME_IS_DENSE: tl.constexpr, CHANNELS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """The time of `y` is dense, TIME_IS_DENSE says whether that of `x` is."""
    batch, begin, channels, inside = place_of(count, length, each, CHANNELS, STEPS)
    x += batch * x_batch
    y += batch * y_batch
    factors = weights_of(weight, bias, channels, inside, BIAS, WIDTH)
    for step in range(each):
        first = begin + step * STEPS
        rest = (length - first).to(tl.int32)
        values = past_of(x, channels * x_channel, inside, first, rest, x_time, WIDTH)
        values = values + times_of(x, channels * x_channel, inside, first, rest, x_time, TIME_IS_DENSE, CHANNELS, STEPS)
        results = ()
        for n in tl.static_range(STEPS):
            result = convolved(values, factors, n, WIDTH)
            if SILU:
                result = result * tl.sigmoid(result)
            results = results + (result,)
        keep(y, channels * y_channel, results, inside, first, rest, 1, True, CHANNELS, STEPS)


@triton.jit
def backward(
    grad, x, weight, bias, grad_x, partial,
    grad_batch, grad_channel, grad_time, x_batch, x_channel, x_time, out_batch, out_channel, out_time, count, length, each,
    BIAS: tl.constexpr, SILU: tl.constexpr, WIDTH: tl.constexpr, GRAD_TIME_IS_DENSE: tl.constexpr, TIME_IS_DENSE: tl.constexpr,
    OUT_TIME_IS_DENSE: tl.constexpr, CHANNELS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """A program leaves what its times add to the gradients of WIDTH weights and the bias in its rows of `partial`."""
    batch, begin, channels, inside = place_of(count, length, each, CHANNELS, STEPS)
    x += batch * x_batch
    grad += batch * grad_batch
    grad_x += batch * out_batch
    factors = weights_of(weight, bias, channels, inside, BIAS, WIDTH)
    sums = ()
    for _ in tl.static_range(WIDTH + 1):
        sums = sums + (tl.zeros([CHANNELS], dtype=tl.float32),)
    for step in range(each):
        first = begin + step * STEPS
        rest = (length - first).to(tl.int32)
        values = past_of(x, channels * x_channel, inside, first, rest, x_time, WIDTH)
        values = values + times_of(x, channels * x_channel, inside, first, rest, x_time, TIME_IS_DENSE, CHANNELS, STEPS)
        values = values + single_times(x, channels * x_channel, inside, first, rest, x_time, STEPS, WIDTH - 1)
        incoming = times_of(grad, channels * grad_channel, inside, first, rest, grad_time, GRAD_TIME_IS_DENSE, CHANNELS, STEPS)
        incoming = incoming + single_times(grad, channels * grad_channel, inside, first, rest, grad_time, STEPS, WIDTH - 1)
        changes = ()
        for n in tl.static_range(STEPS + WIDTH - 1):
            change = incoming[n].to(tl.float32)
            if SILU:
                u = convolved(values, factors, n, WIDTH)
                sigmoid = tl.sigmoid(u)
                change = change * sigmoid * (1 + u * (1 - sigmoid))
            changes = changes + (change,)
        results = ()
        for n in tl.static_range(STEPS):
            result = factors[0] * changes[n + WIDTH - 1]
            for k in tl.static_range(1, WIDTH):
                result += factors[k] * changes[n + WIDTH - 1 - k]
            results = results + (result,)
        keep(grad_x, channels * out_channel, results, inside, first, rest, out_time, OUT_TIME_IS_DENSE, CHANNELS, STEPS)
        sums = added(sums, changes, values, WIDTH, STEPS)
    partial += tl.program_id(0).to(tl.int64) * (WIDTH + 1) * count + channels
    for k in tl.static_range(WIDTH + 1):
        tl.store(partial + k * count, sums[k], mask=inside)


@triton.jit
def added(sums, changes, values, WIDTH: tl.constexpr, STEPS: tl.constexpr):
    """The sums for the gradients of weights and bias, with what STEPS times add to them."""
    found = ()
    for k in tl.static_range(WIDTH):
        total = changes[0] * values[k].to(tl.float32)
        for n in tl.static_range(1, STEPS):
            total += changes[n] * values[n + k].to(tl.float32)
        found = found + (sums[k] + total,)
    total = changes[0]
    for n in tl.static_range(1, STEPS):
        total += changes[n]
    return found + (sums[WIDTH] + total,)


@triton.jit
def summed(partial, grad_weight, grad_bias, programs, count, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The sums of some columns of `partial` for one weight or the bias, always in the same order, rounded to what the gradient has."""
    k = tl.program_id(1)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]
    total = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    for start in range(0, programs, ROWS):
        rows = start + tl.arange(0, ROWS)[:, None]
        at = partial + (rows.to(tl.int64) * (WIDTH + 1) + k) * count + columns
        total += tl.load(at, mask=(rows < programs) & (columns < count), other=0.0)
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if k < WIDTH:
        tl.store(grad_weight + places * WIDTH + k, tl.sum(total, axis=0), mask=places < count)
    else:
        tl.store(grad_bias + places, tl.sum(total, axis=0), mask=places < count)
