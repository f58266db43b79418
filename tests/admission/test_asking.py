"""Whoever asks for it gets probed kernels: the backend and kernelize hand `verify=` on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_repositories import repository
from layers import Block

import fxkernels
from fxkernels.admission import Verify


def mapping(layer: str, kernels: str) -> Any:
    return {"RMSNorm": {"cpu": repository(kernels, layer)}}


def report_of(layer: str, verify: Verify | None, way: str, kernels: str) -> Any:
    model, x = Block(8), torch.randn(3, 8)
    if way == "kernelize":
        run: Any = fxkernels.kernelize(model, mapping=mapping(layer, kernels), verify=verify)
        run(x).sum().backward()
        return run.report
    backend = fxkernels.hubkernels(inner="aot_eager", mapping=mapping(layer, kernels), verify=verify)
    torch.compile(model, backend=backend, fullgraph=True)(x).sum().backward()
    return backend.report


@pytest.mark.parametrize("way", ["kernelize", "backend"])
def test_kernel_that_overwrites_the_incoming_gradient_is_refused_with_its_evidence(way: str) -> None:
    (call,) = report_of("RMSNorm", "probe", way, "hazard-1-incoming-gradient").calls
    assert call.status == "missed"
    assert call.miss.code == "gradient"
    assert "incoming gradient" in str(call.miss)


@pytest.mark.parametrize("way", ["kernelize", "backend"])
def test_kernel_that_passes_the_probe_is_used(way: str) -> None:
    assert len(report_of("RMSNorm", "strict", way, "norms").rewritten) == 1


def test_nothing_is_probed_where_verification_is_off() -> None:
    assert len(report_of("RMSNorm", "off", "backend", "hazard-1-incoming-gradient").rewritten) == 1


def test_unknown_word_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'off', 'probe', 'strict'"):
        fxkernels.hubkernels(verify="maybe")
