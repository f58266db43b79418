"""What tests of compilation share: rows of kernels, and an input."""

from __future__ import annotations

import pytest
import torch
from kernel_rows import ROWS, Row


@pytest.fixture(params=ROWS)
def row(request: pytest.FixtureRequest) -> Row:
    row = ROWS[request.param]
    if row.unavailable is not None:
        pytest.skip(row.unavailable)
    return row


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 8)
