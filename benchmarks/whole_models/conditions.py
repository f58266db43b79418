"""Under which conditions a side is measured: caches of its own, no longer than a limit, and memory that others have given back."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


@contextmanager
def caches_in(folder: Path) -> Iterator[bool]:
    """Let what is compiled and probed meanwhile be kept in that folder only; whether it was there already comes out."""
    from torch._inductor.utils import clear_caches

    clear_caches()
    warm = folder.exists()
    own = {"TORCHINDUCTOR_CACHE_DIR": folder / "inductor", "TRITON_CACHE_DIR": folder / "triton", "FXKERNELS_CACHE": folder / "records"}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update({name: str(path) for name, path in own.items()})
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield warm
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in what takes longer. In the main thread only."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def free_memory(device: str) -> None:
    """Forget everything compiled, and give its memory back."""
    torch._dynamo.reset()
    if device == "cuda":
        from torch._inductor.cudagraph_trees import reset_cudagraph_trees

        reset_cudagraph_trees()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
