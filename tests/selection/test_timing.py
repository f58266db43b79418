"""How calls are timed: in turns, and by what the device does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from fxkernels.capture import _torch
from fxkernels.selection.timing import ROUNDS, calls_within, times_of

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_each_side_is_timed_in_each_round_and_sides_take_turns() -> None:
    order: list[str] = []

    def noting(name: str, seconds: float):
        def run() -> None:
            if not order or order[-1] != name:
                order.append(name)
            time.sleep(seconds)

        return run

    start = time.perf_counter()
    found = times_of({"long": noting("long", 0.004), "short": noting("short", 0.002)}, torch.device("cpu"))
    elapsed = time.perf_counter() - start
    assert {name: len(side.device) for name, side in found.items()} == {"long": ROUNDS, "short": ROUNDS}
    assert order[-2 * ROUNDS :] == ["long", "short"] * ROUNDS
    # A call sleeps at least that long. How much longer depends on what else the machine does.
    assert min(found["long"].device) >= 4000
    assert min(found["short"].device) >= 2000
    assert sum(found["long"].device + found["short"].device) <= 1e6 * elapsed
    assert found["long"].host == ()


def test_all_sides_are_timed_over_equally_many_calls_and_one_slow_call_does_not_make_them_few() -> None:
    assert calls_within([50e-6, 0.2, 60e-6]) == 20
    assert calls_within([3.0]) == 1
    assert calls_within([1e-6]) == 40
    counts: Counter[str] = Counter()

    def counting(name: str, seconds: float):
        def run() -> None:
            counts[name] += 1
            time.sleep(seconds)

        return run

    times_of({"long": counting("long", 0.002), "short": counting("short", 0.0001)}, torch.device("cpu"))
    assert counts["long"] == counts["short"]


class TestOnAGpu:
    pytestmark = ON_GPU

    @pytest.fixture(autouse=True)
    def on_a_stream_of_its_own(self) -> Iterator[None]:
        with _torch.capture_stream(torch.device("cuda", 0)):
            yield

    def test_the_devices_time_is_that_of_the_work_and_the_hosts_that_of_asking_for_it(self) -> None:
        small, large = (torch.randn(size, size, device="cuda") for size in (64, 8192))
        found = times_of({"small": lambda: small.sin(), "large": lambda: large.sin()}, torch.device("cuda"))
        assert found["large"].microseconds > 10 * found["small"].microseconds
        assert found["large"].of_host < found["large"].microseconds
        assert all(len(side.host) == ROUNDS for side in found.values())

    def test_two_launches_take_longer_than_one_of_the_same_work_however_short(self) -> None:
        x = torch.randn(2048, device="cuda")
        found = times_of({"one": lambda: x.sin(), "two": lambda: x.sin().cos()}, torch.device("cuda"))
        assert found["two"].microseconds > found["one"].microseconds + 0.3

    def test_what_cannot_be_captured_in_a_cuda_graph_is_timed_all_the_same(self) -> None:
        x = torch.randn(1024, 1024, device="cuda")

        def asks() -> None:
            if float(x.sum()) == 1.5:  # waits for the device
                x.sin()

        found = times_of({"asks": asks, "plain": lambda: x.sin()}, torch.device("cuda"))
        assert all(side.microseconds > 0 and not side.host for side in found.values())

    def test_a_backward_is_timed_too(self) -> None:
        x = torch.randn(4096, 4096, device="cuda", requires_grad=True)
        y = torch.ones_like(x)
        found = times_of(
            {"forward": lambda: x.sin(), "both": lambda: torch.autograd.grad(x.sin(), x, y)},
            torch.device("cuda"),
        )
        assert found["both"].microseconds > 1.5 * found["forward"].microseconds
