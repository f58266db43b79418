"""What every test may rely on: a fixed seed, an empty process-wide mapping and a Dynamo without the graphs of other tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch

from fxkernels.mapping import register_kernel_mapping


@pytest.fixture(autouse=True)
def clean_process_state() -> Iterator[None]:
    _reset()
    torch.manual_seed(0)
    yield
    _reset()


def _reset() -> None:
    register_kernel_mapping({}, inherit_mapping=False)
    dynamo = sys.modules.get("torch._dynamo")  # importing it takes seconds, and many tests never compile
    if dynamo is not None:
        dynamo.reset()
