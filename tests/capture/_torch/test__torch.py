"""One canary for each function of `_torch`: the first to fail when a version of torch changes what it relies on."""

from __future__ import annotations

from inspect import isroutine
from pathlib import Path

from fxkernels.capture import _torch


def test_every_function_has_a_canary_that_is_named_after_it() -> None:
    canaries = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    functions = [name for name in _torch.__all__ if isroutine(getattr(_torch, name))]
    assert [name for name in functions if f"def test_{name}_" not in canaries] == []
