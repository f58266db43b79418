"""A cache directory of the test's own, so that no record of another test is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fxkernels.admission import forget_verdicts


@pytest.fixture(autouse=True)
def own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FXKERNELS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FXKERNELS_VERIFY", raising=False)
    forget_verdicts()
    yield tmp_path / "cache" / "admitted"
    forget_verdicts()
