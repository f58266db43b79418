"""What a terminal shows while kernels are timed."""

from __future__ import annotations

import io
import sys

import pytest

from fxkernels.selection.progress import Progress


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_of_the_budget_and_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Progress(120, 30, "timing kernels: model.layers.0.norm"):
        pass
    assert "timing kernels: model.layers.0.norm" in terminal.getvalue()
    assert "of 120 s" in terminal.getvalue()


def test_what_is_no_terminal_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    with Progress(120, 30, "timing kernels: norm"):
        pass
    assert file.getvalue() == ""


def test_the_bar_goes_away_when_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress(120, 0, "timing kernels: norm")
    with pytest.raises(KeyboardInterrupt), progress:
        raise KeyboardInterrupt
    assert not progress._bar.live.is_started
