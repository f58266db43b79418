"""Who wins: a kernel has to be clearly and steadily faster, and must not keep the device waiting for the host."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import fx

from fxkernels.selection import MARGIN, Contest, Inner, Results, Times


def times(device: float, host: float = 0.0, rounds: int = 8) -> Times:
    return Times((device,) * rounds, (host,) * rounds if host else ())


def results(original: Times, *, replays: bool = False, **kernels: Times) -> Results:
    return Results(original, kernels, replays, {})


def test_a_kernel_wins_that_saves_more_than_the_margin() -> None:
    assert results(times(100, host=9), kernel=times(100 / (1 + MARGIN) - 0.1, host=9)).winner == "kernel"


def test_a_kernel_that_saves_less_than_the_margin_leaves_the_call_to_the_compiler() -> None:
    found = results(times(100, host=9), kernel=times(98, host=9))
    assert found.winner is None
    assert found.told("kernel") == "98 us instead of 100 us, 1.02x, less than the 3% that make a kernel worth it"


def test_the_margin_is_wider_where_the_hosts_time_is_in_what_was_measured() -> None:
    found = results(times(100), kernel=times(96))
    assert found.winner is None
    assert found.told("kernel") == "96 us instead of 100 us, 1.04x, less than the 5% that make a kernel worth it"
    assert results(times(100), kernel=times(94)).winner == "kernel"


def test_a_kernel_that_saves_less_than_can_be_measured_leaves_the_call_to_the_compiler() -> None:
    found = results(times(1.8), kernel=times(1.6))
    assert found.winner is None
    assert found.told("kernel") == "1.6 us instead of 1.8 us, 1.12x, less than the 0.3 us that can be told from noise"


def test_a_slower_kernel_is_said_to_be_no_faster() -> None:
    assert results(times(20), kernel=times(25)).told("kernel") == "25 us instead of 20 us, 0.80x, no faster"


def test_of_several_kernels_the_fastest_wins() -> None:
    assert results(times(100), one=times(60), two=times(40), three=times(50)).winner == "two"


def test_a_kernel_that_loses_every_third_round_does_not_win_by_its_median() -> None:
    kernel = Times((80, 80, 130, 80, 80, 130, 80, 130))
    found = results(times(100), kernel=kernel)
    assert found.ratio("kernel") > 1 + MARGIN
    assert found.winner is None
    assert "not faster in a quarter of the rounds" in found.told("kernel")


def test_one_bad_round_does_not_cost_the_victory() -> None:
    assert results(times(100), kernel=Times((80,) * 7 + (300,))).winner == "kernel"


def test_a_kernel_that_makes_the_device_wait_for_the_host_does_not_win() -> None:
    found = results(times(20, host=30), kernel=times(10, host=60))
    assert found.winner is None
    assert "the host is busy for 60 us instead of 30 us" in found.told("kernel")


def test_the_host_does_not_count_where_cuda_graphs_are_replayed() -> None:
    assert results(times(20, host=30), kernel=times(10, host=60), replays=True).winner == "kernel"


def test_the_host_may_be_as_busy_as_the_device_was() -> None:
    assert results(times(100, host=30), kernel=times(40, host=90)).winner == "kernel"


def test_times_of_a_gpu_say_that_the_host_is_in_them_where_nothing_could_be_captured() -> None:
    contest = Contest(lambda: fx.GraphModule({}, fx.Graph()), {}, (), False, torch.device("cuda", 0), Inner())
    assert "as launched" in contest.how(results(times(100)))
    assert contest.how(results(times(100, host=9))) == str(contest)
    assert replace(contest, device=torch.device("cpu")).how(results(times(100))).startswith("forward, by itself, cpu")


def test_what_is_written_is_read_again() -> None:
    found = Results(times(12.345678, host=3), {"kernel": times(8)}, True, {"other": "RuntimeError: no"})
    again = Results.from_dict(found.as_dict(), replays=True)
    assert again.original == times(12.35, host=3)
    assert (again.kernels, again.replays, again.failed) == ({"kernel": times(8)}, True, {"other": "RuntimeError: no"})


@pytest.mark.parametrize(
    "damage",
    [
        {"original": None},
        {"kernels": []},
        {"kernels": {"kernel": {"device": [1.0], "host": []}}},
        {"original": {"device": [], "host": []}, "kernels": {}},
        {"original": {"device": [-1.0] * 8, "host": []}},
        {"original": {"device": [float("nan")] * 8, "host": []}},
    ],
)
def test_damaged_times_are_not_taken_for_times(damage: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"no time"):
        Results.from_dict({**results(times(100), kernel=times(50)).as_dict(), **damage}, replays=False)
