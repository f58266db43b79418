"""Stretches of time in registers: for each channel of a program its values at some times, one vector of channels for each time.

A thread then has a channel at all of these times, and convolving it with its past takes no thread but itself. Tensors that are dense in
their channels are read and written time by time. Those that are dense in time are read and written as tiles, whole sectors of each channel,
and taken apart or put together in registers. Times are numbered from the first one of a stretch.
"""

# ruff: noqa: RUF005 - Triton knows no starred expressions (3.7)

import triton
import triton.language as tl


@triton.jit
def single_times(x, channels, inside, first, rest, time, START: tl.constexpr, COUNT: tl.constexpr):
    """The values at COUNT times from number START on, for any strides; zero after the last one, which is number `rest` - 1.

    Number 0 is the time `first`. `channels` is how far each channel is from `x`, and `time` is the stride from one time to the next.
    """
    values = ()
    for n in tl.static_range(START, START + COUNT):
        values = values + (tl.load(x + channels + (first + n) * time, mask=inside & (n < rest), other=0.0),)
    return values


@triton.jit
def apart(tile, CHANNELS: tl.constexpr, COUNT: tl.constexpr):
    """The COUNT columns of a tile, one after the other."""
    if COUNT == 1:
        return (tl.reshape(tile, [CHANNELS]),)
    else:
        even, odd = tl.split(tl.reshape(tile, [CHANNELS, COUNT // 2, 2]))
        evens, odds = apart(even, CHANNELS, COUNT // 2), apart(odd, CHANNELS, COUNT // 2)
        columns = ()
        for n in tl.static_range(COUNT // 2):
            columns = columns + (evens[n], odds[n])
        return columns


@triton.jit
def together(columns, CHANNELS: tl.constexpr, COUNT: tl.constexpr):
    """The tile that has these columns."""
    if COUNT == 1:
        return tl.reshape(columns[0], [CHANNELS, 1])
    else:
        evens, odds = (), ()
        for n in tl.static_range(COUNT // 2):
            evens = evens + (columns[2 * n],)
            odds = odds + (columns[2 * n + 1],)
        halves = tl.join(together(evens, CHANNELS, COUNT // 2), together(odds, CHANNELS, COUNT // 2))
        return tl.reshape(halves, [CHANNELS, COUNT])


@triton.jit
def times_of(x, channels, inside, first, rest, time, TIME_IS_DENSE: tl.constexpr, CHANNELS: tl.constexpr, COUNT: tl.constexpr):
    """The values at COUNT times from number 0 on, a power of two."""
    if TIME_IS_DENSE:
        times = tl.arange(0, COUNT)[None, :]
        values = apart(tl.load(x + channels[:, None] + first + times, mask=inside[:, None] & (times < rest), other=0.0), CHANNELS, COUNT)
    else:
        values = single_times(x, channels, inside, first, rest, time, 0, COUNT)
    return values


@triton.jit
def keep(y, channels, values, inside, first, rest, time, TIME_IS_DENSE: tl.constexpr, CHANNELS: tl.constexpr, COUNT: tl.constexpr):
    """Store the values at COUNT times from number 0 on, a power of two, rounded to what is pointed at."""
    if TIME_IS_DENSE:
        times = tl.arange(0, COUNT)[None, :]
        tl.store(y + channels[:, None] + first + times, together(values, CHANNELS, COUNT), mask=inside[:, None] & (times < rest))
    else:
        for n in tl.static_range(COUNT):
            tl.store(y + channels + (first + n) * time, values[n], mask=inside & (n < rest))
