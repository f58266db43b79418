"""What is asked of a kernel for a call that was captured: its tensors without their values, and other values of its dynamic sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_repositories import repository
from layers import Stack

import fxkernels
from fxkernels.admission import Request
from fxkernels.admission.probe import probe
from fxkernels.admission.request import TensorSpec
from fxkernels.admission.wire import from_bytes, to_bytes
from fxkernels.kernels.lowering import case as case_module

MAPPING = {"RMSNorm": {"cpu": repository("norms", "RMSNorm")}}


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The cases that are decided while a test compiles something."""
    found: list[Any] = []
    original = case_module.Case.__init__

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        found.append(self)

    monkeypatch.setattr(case_module.Case, "__init__", noted)
    return found


def requested(cases: list[Any], **options: Any) -> Request:
    torch.compile(Stack(), backend=fxkernels.hubkernels(mapping=MAPPING, inner="eager"), **options)(torch.randn(3, 5, 8))
    found = Request.of(cases[0], gradient=True)
    assert isinstance(found, Request)
    return found


def test_a_captured_call_is_described_by_its_tensors(cases: list[Any]) -> None:
    request = requested(cases)
    (inputs,) = request.cases
    assert [(spec.sizes, spec.of_layer, spec.requires_grad) for spec in inputs if isinstance(spec, TensorSpec)] == [
        ((3, 5, 8), False, False),
        ((8,), True, True),
    ]
    assert request.gradient
    assert probe(request).result == "admitted"


def test_dynamic_sizes_are_probed_small_odd_and_large(cases: list[Any]) -> None:
    request = requested(cases, dynamic=True)
    shapes = [inputs[0].sizes for inputs in request.cases]
    assert shapes == [(3, 5, 8), (2, 2, 8), (13, 15, 8), (512, 5, 8), (3, 512, 8)]
    assert request.ranges == ((2, 512), (2, 512))
    assert probe(request).result == "admitted"


def test_a_request_survives_the_way_to_another_process(cases: list[Any]) -> None:
    request = requested(cases)
    received = from_bytes(to_bytes(request))
    assert received.cases == request.cases
    assert (received.args, received.tensors, received.names) == (request.args, request.tensors, request.names)
    assert received.kernel == request.kernel
    x, weight = torch.randn(3, 5, 8), torch.randn(8)
    assert torch.equal(received.reference(x, weight)[0], request.reference(x, weight)[0])
