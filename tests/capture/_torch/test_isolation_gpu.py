"""Canaries for CUDA graphs of functions that may turn out not to be capturable."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

from fxkernels.capture import _torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(autouse=True)
def on_a_stream_of_its_own() -> Iterator[None]:
    with _torch.capture_stream(torch.device("cuda", 0)):
        yield


def waits(x: torch.Tensor) -> None:
    y = x * 2
    if float(y.sum()) == 1.5:
        y.sin()


def test_replayed_does_all_calls_at_each_call() -> None:
    x = torch.zeros(8, device="cuda")
    replay = _torch.replayed(lambda: x.add_(1), calls=3)
    x.zero_()
    replay()
    replay()
    assert x.tolist() == [6.0] * 8


def test_replayed_leaves_nothing_behind_where_it_fails() -> None:
    x, stream = torch.randn(1024, 1024, device="cuda"), torch.cuda.current_stream()
    for _ in range(2):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        with pytest.raises(RuntimeError):
            _torch.replayed(lambda: waits(x), calls=2)
        gc.collect()
        torch.cuda.empty_cache()
        assert torch.cuda.memory_reserved() <= before + 2**21  # a small block, of whoever comes first
        assert torch.cuda.current_stream() == stream
    drawn = torch.randn(8, device="cuda")
    _torch.replayed(lambda: torch.rand_like(x).add_(drawn[0]), calls=2)()
    assert torch.isfinite(torch.randn_like(x)).all()


def test_replayed_raises_what_the_function_raises() -> None:
    x = torch.zeros(8, device="cuda")

    def interrupted() -> None:
        x.add_(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _torch.replayed(interrupted, calls=1)
    assert torch.randn(8, device="cuda").isfinite().all()


def test_capture_stream_is_a_stream_that_waits_and_is_waited_for() -> None:
    device = torch.device("cuda", 0)
    with torch.cuda.stream(torch.cuda.default_stream(device)):
        x = torch.randn(4096, 4096, device=device)
        y = x @ x
        with _torch.capture_stream(device):
            assert torch.cuda.current_stream() != torch.cuda.default_stream(device)
            z = y @ x
        assert torch.cuda.current_stream() == torch.cuda.default_stream(device)
        torch.testing.assert_close(z, (x @ x) @ x)


def test_capture_stream_no_memory_is_kept() -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    with _torch.capture_stream(torch.device("cuda", 0)):
        assert torch.zeros(2**30, dtype=torch.uint8, device="cuda").sum() == 0
    assert torch.cuda.memory_reserved() < before + 2**29


def test_capture_stream_nobody_waits_for_the_default_stream_whose_graphs_of_autograd_live_on() -> None:
    x = torch.randn(64, device="cuda", requires_grad=True)

    def step() -> object:
        (y,) = held[:] = [x.sin()]  # whoever makes cycles keeps nodes of earlier calls alive
        return torch.autograd.grad(y.sum(), x)

    held: list[torch.Tensor] = []
    step()
    _torch.replayed(step, calls=2)()
