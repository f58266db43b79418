"""Work in the middle of a compilation that the compilation does not notice: compiling another graph, and capturing CUDA graphs of it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._dynamo import utils
from torch._dynamo.metrics_context import MetricsContext
from torch._guards import compile_context, tracing

_Pool = tuple[int, int]


@contextlib.contextmanager
def isolated_compile() -> Iterator[None]:
    """Within, there is no compilation: the graph and the statistics of the one around are neither read nor written (torch 2.11, 2.13)."""
    holder, name = (
        (utils._metrics_context_tls, "metrics_context") if hasattr(utils, "_metrics_context_tls") else (utils, "_METRICS_CONTEXT")
    )
    statistics = utils.get_metrics_context()
    setattr(holder, name, MetricsContext(on_exit=lambda *_: None))
    try:
        with tracing(None), compile_context(None):
            yield
    finally:
        setattr(holder, name, statistics)


@contextlib.contextmanager
def capture_stream(device: torch.device) -> Iterator[None]:
    """Within, work on a CUDA device is launched on a stream on which it can also be captured, after the work that was launched before.

    A backward goes where its forward was, and where gradients of the leaves were last asked for. So whatever is to be captured must have
    been on this stream from its first call on: nothing that is captured may wait for the default stream, nor that for it.

    Args:
        device: Where. On others than CUDA's, nothing is done.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.current_stream(device)
    stream = _stream(before.device_index)
    stream.wait_stream(before)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        before.wait_stream(stream)
        torch.cuda.empty_cache()  # what is kept for a stream is of no use to the others


@functools.cache
def _stream(number: int) -> torch.cuda.Stream:
    """Always the same of a device: libraries keep a workspace for each."""
    return torch.cuda.Stream(number)  # type: ignore[no-untyped-call]


def replayed(run: Callable[[], object], calls: int) -> Callable[[], None]:
    """Return a function that makes the current stream do so many calls of a function in a row, by replaying a CUDA graph.

    `torch.cuda.graph` is not made for functions that cannot be captured: the capture's stream stays the current one, its memory pool takes
    part in every allocation from then on, and nothing can draw a random number on that device any more (torch 2.11, 2.13).

    On a stream that is not the default one; see `capture_stream`.

    Args:
        run: What is captured. Other threads may do what they like with the device meanwhile.
        calls: How often.

    Raises:
        RuntimeError: If it cannot be captured: it waits for the device, or launches something on another stream.
    """
    torch.cuda.synchronize()
    torch.cuda.empty_cache()  # nothing can be given back during a capture
    graph, pool = torch.cuda.CUDAGraph(), _new_pool()
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    try:
        for _ in range(calls):
            run()
    except BaseException:
        with contextlib.suppress(RuntimeError):
            _end(graph, pool)
        raise
    _end(graph, pool)
    graph.replay()
    return graph.replay


def _new_pool() -> Any:
    return torch.cuda.graph_pool_handle()


def _end(graph: torch.cuda.CUDAGraph, pool: _Pool) -> None:
    try:
        graph.capture_end()
    except RuntimeError:
        _let_go(pool)
        raise


def _let_go(pool: _Pool) -> None:
    """Do what `capture_end` leaves undone when it raises."""
    device = torch.cuda.current_device()
    torch._C._cuda_endAllocateToPool(device, pool)
    torch._C._cuda_releasePool(device, pool)
    # The generator believes that it is being captured until a capture ends well.
    number = torch.zeros((), device="cuda")
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin(pool=_new_pool(), capture_error_mode="thread_local")
    number.zero_()
    graph.capture_end()
