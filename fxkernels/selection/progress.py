"""What a terminal shows while kernels are timed; elsewhere nothing."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Progress:
    """A bar on standard error, of the budget that is used up; it goes away afterwards.

    Args:
        seconds: The budget.
        spent: How much of it is used up at the beginning.
        text: What it is spent on.
    """

    def __init__(self, seconds: float, spent: float, text: str) -> None:
        self._seconds, self._spent, self._text = seconds, spent, text
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("of {task.total:g} s"), TimeElapsedColumn())
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.add_task(self._text, total=self._seconds, completed=self._spent)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
