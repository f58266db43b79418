"""Canary for TORCH_TRACE. What a compilation writes there is shown in tests/report/test_publish.py."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from torch import fx

from fxkernels.capture import _torch


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """Torch's trace, without a file."""
    logger = logging.getLogger("torch.__trace")
    before = list(logger.handlers)
    logger.handlers.clear()
    yield logger
    logger.handlers[:] = before


def test_trace_artifact_is_filed_under_the_compilation_that_is_going_on(log: logging.Logger) -> None:
    records = Records()
    log.addHandler(records)

    def backend(gm: fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        _torch.trace_artifact("example", "string", lambda: "one\ntwo")
        return gm.forward

    torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2))
    (record,) = [
        record.__dict__
        for record in records.records
        if "artifact" in record.__dict__["metadata"] and record.__dict__["payload"] == "one\ntwo"
    ]
    assert record["metadata"]["artifact"] == {"name": "example", "encoding": "string"}
    assert record["metadata"]["frame_id"] == 0


def test_an_artifact_is_written_outside_of_compilations_too(log: logging.Logger) -> None:
    records = Records()
    log.addHandler(records)
    _torch.trace_artifact("example", "json", lambda: "{}")
    (record,) = records.records
    assert "frame_id" not in record.__dict__["metadata"]


def test_nothing_is_computed_where_no_trace_is_written(log: logging.Logger) -> None:
    log.handlers.clear()  # pytest has put its own there since
    _torch.trace_artifact("example", "string", lambda: pytest.fail("nobody reads it"))
