from __future__ import annotations

from collections.abc import Iterator

import pytest
from inspector import INSPECTOR, Inspector

from fxkernels.capture import _torch


@pytest.fixture(autouse=True)
def inspector() -> Iterator[Inspector]:
    _torch.install(INSPECTOR)
    INSPECTOR.reset()
    yield INSPECTOR
    INSPECTOR.reset()
