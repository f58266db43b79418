"""Under which conditions a side is measured: caches of its own, nobody else on the GPU, no longer than a limit, and memory given back."""

from __future__ import annotations

import fcntl
import gc
import math
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from fxkernels.admission.worker import WORKER


@contextmanager
def caches_in(folder: Path, tuned: Path | None = None) -> Iterator[bool]:
    """Let what is compiled, probed and timed meanwhile be kept in a folder only; whether there is anything in it already comes out.

    Args:
        folder: The side's, made if it is not there.
        tuned: Another such folder, whose Triton kernels a new one begins with.
    """
    from torch._inductor.utils import clear_caches

    clear_caches()
    warm = folder.exists()
    own = {"TORCHINDUCTOR_CACHE_DIR": folder / "inductor", "TRITON_CACHE_DIR": folder / "triton", "FXKERNELS_CACHE": folder / "records"}
    folder.mkdir(parents=True, exist_ok=True)
    if tuned is not None and not warm and (tuned / "triton").exists():
        shutil.copytree(tuned / "triton", folder / "triton")
    before = {name: os.environ.get(name) for name in own}
    os.environ.update({name: str(path) for name, path in own.items()})
    try:
        yield warm
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@contextmanager
def turn(file: Path | None, *, alone: bool) -> Iterator[None]:
    """Wait for one's turn, where several processes measure at once: many may compile, but only one may measure, and then nobody compiles.

    Args:
        file: What all of them name; without one, it is always one's turn.
        alone: Whether something is measured.
    """
    with ExitStack() as stack:
        if file is not None:
            lock = stack.enter_context(file.open("w"))
            with file.with_suffix(".next").open("w") as queue:
                # Whoever is next keeps the others out of the queue, or those that may compile together would never let it in.
                fcntl.flock(queue, fcntl.LOCK_EX)
                fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


@contextmanager
def at_most(seconds: int, deadline: float = math.inf) -> Iterator[None]:
    """Raise TimeoutError in what takes longer, or is not done by the deadline of the monotonic clock. In the main thread only."""
    left = min(seconds, deadline - time.monotonic())
    if left <= 0:
        raise TimeoutError("no time was left")

    def late(*_: Any) -> None:
        raise TimeoutError(f"not done after {left:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    # Again and again: the first one may be taken for the failure of a kernel that is being tried.
    signal.setitimer(signal.ITIMER_REAL, left, 5.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def stop_probing() -> None:
    """End the process that probes kernels: it may be in the middle of something, and the next probe begins another."""
    WORKER.close()


def forget(device: str) -> None:
    """Forget everything compiled, end the process that probes, and give memory back."""
    stop_probing()
    torch._dynamo.reset()
    if device == "cuda":
        from torch._inductor.cudagraph_trees import reset_cudagraph_trees

        reset_cudagraph_trees()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
