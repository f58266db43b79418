"""Taking turns, and caches of one's own."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from whole_models.conditions import at_most, caches_in, turn


def test_who_measures_alone_waits_for_those_that_compile(tmp_path: Path) -> None:
    order: list[str] = []
    compiling, done = threading.Event(), threading.Event()

    def compile_something() -> None:
        with turn(tmp_path / "turns", alone=False):
            compiling.set()
            done.wait()
            time.sleep(0.1)  # the other one asks for its turn in the meantime, and has to wait for this
            order.append("compiled")

    thread = threading.Thread(target=compile_something)
    thread.start()
    compiling.wait()
    with turn(tmp_path / "turns", alone=False):
        order.append("compiled as well")
    done.set()
    with turn(tmp_path / "turns", alone=True):
        order.append("measured")
    thread.join()
    assert order == ["compiled as well", "compiled", "measured"]


def test_who_compiles_waits_for_who_measures(tmp_path: Path) -> None:
    order: list[str] = []

    def compile_something() -> None:
        with turn(tmp_path / "turns", alone=False):
            order.append("compiled")

    thread = threading.Thread(target=compile_something)
    with turn(tmp_path / "turns", alone=True):
        thread.start()
        time.sleep(0.1)
        order.append("measured")
    thread.join()
    assert order == ["measured", "compiled"]


def test_caches_are_in_the_folder_and_know_whether_it_is_new(tmp_path: Path) -> None:
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    with caches_in(tmp_path / "side") as warm:
        assert not warm
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "side" / "inductor")
    with caches_in(tmp_path / "side") as warm:
        assert warm
    assert os.environ.get("TORCHINDUCTOR_CACHE_DIR") == before


def test_a_new_folder_begins_with_the_kernels_of_a_tuned_one(tmp_path: Path) -> None:
    with caches_in(tmp_path / "tuned"):
        kernels = Path(os.environ["TRITON_CACHE_DIR"])
        kernels.mkdir()
        (kernels / "best").write_text("64 x 64")
    with caches_in(tmp_path / "side", tmp_path / "tuned") as warm:
        assert not warm
        assert Path(os.environ["TRITON_CACHE_DIR"], "best").read_text() == "64 x 64"


def test_what_takes_too_long_is_interrupted() -> None:
    with pytest.raises(TimeoutError, match="not done after 1 s"), at_most(1):
        time.sleep(5)


def test_after_the_deadline_nothing_is_begun() -> None:
    with pytest.raises(TimeoutError, match="no time was left"), at_most(1, time.monotonic() - 1):
        pytest.fail("it was begun")
