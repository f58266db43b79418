"""FXKERNELS_FUEL=n: the first n calls run kernels."""

from __future__ import annotations

import copy

import pytest
import torch
from kernel_repositories import executions, repository, reset_executions
from layers import Stack
from torch import nn

from fxkernels import explain, hubkernels, kernelize, use_kernel_mapping
from fxkernels.fuel import Fuel, fuel_in_environment

MAPPING = {"RMSNorm": {"cpu": repository("norms", "RMSNorm")}}


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 8)


def rewritten(report):
    return [call.path for call in report.rewritten]


def test_only_the_first_calls_run_kernels(monkeypatch, x):
    monkeypatch.setenv("FXKERNELS_FUEL", "2")
    reset_executions("norms")
    model = kernelize(Stack(), mapping=MAPPING)
    model(x)
    assert rewritten(model.report) == ["blocks.0.norm", "blocks.1.norm"]
    assert executions("norms") == {"RMSNorm": 2}


def test_the_report_says_that_the_fuel_is_used_up_and_by_whom(monkeypatch, x):
    monkeypatch.setenv("FXKERNELS_FUEL", "2")
    model = kernelize(Stack(), mapping=MAPPING)
    model(x)
    (excluded,) = [call for call in model.report.calls if call.status == "excluded"]
    assert excluded.path == "norm"
    assert excluded.miss.message == "FXKERNELS_FUEL=2 is used up, blocks.1.norm#0 was the last call to get a kernel"
    assert "FXKERNELS_FUEL=2 is used up" in " ".join(str(model.report).split())


def test_a_graph_that_is_captured_again_uses_no_new_fuel(monkeypatch):
    monkeypatch.setenv("FXKERNELS_FUEL", "2")
    backend = hubkernels(inner="eager", mapping=MAPPING)
    model = torch.compile(Stack(), backend=backend, dynamic=False)
    for rows in (3, 4, 5):
        model(torch.randn(rows, 8))
    assert len(backend.report.graphs) == 3
    statuses = {call.path: {decision.status for decision in call.decisions} for call in backend.report.calls}
    assert statuses == {"blocks.0.norm": {"rewritten"}, "blocks.1.norm": {"rewritten"}, "norm": {"excluded"}}


def test_fuel_lasts_over_the_graphs_of_a_broken_frame(monkeypatch, x):
    monkeypatch.setenv("FXKERNELS_FUEL", "2")
    backend = hubkernels(inner="eager", mapping=MAPPING)
    model = Stack(3, around=lambda block, x: (torch._dynamo.graph_break(), block(x))[1])
    torch.compile(model, backend=backend)(x)
    assert len(backend.report.graphs) > 1
    assert rewritten(backend.report) == ["blocks.0.norm", "blocks.1.norm"]


def test_a_call_that_cannot_be_rewritten_uses_no_fuel(monkeypatch, x):
    monkeypatch.setenv("FXKERNELS_FUEL", "1")
    model = Stack().eval()
    model.blocks[0].train()
    backend = hubkernels(inner="eager", mapping={"RMSNorm": {"cpu": repository("norms", "InferenceRMSNorm")}})
    torch.compile(model, backend=backend)(x)
    assert [call.status for call in backend.report.calls] == ["missed", "rewritten", "excluded"]


def test_no_fuel_is_no_kernel_and_use_fallback_does_not_mind(monkeypatch, x):
    monkeypatch.setenv("FXKERNELS_FUEL", "0")
    model = Stack()
    kernelized = kernelize(model, mapping=MAPPING, use_fallback=False)
    assert torch.equal(kernelized(x), model(x))
    assert {call.miss.message for call in kernelized.report.calls} == {"FXKERNELS_FUEL=0 permits no kernel"}


def test_the_symbolic_way_obeys_it_too(monkeypatch, x):
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Stack().norm, Stack().norm

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x))

    monkeypatch.setenv("FXKERNELS_FUEL", "1")
    model = kernelize(Pair(), mapping=MAPPING, capture="symbolic", use_fallback=False)
    model(x)
    assert [(call.path, call.status) for call in model.report.calls] == [("first", "rewritten"), ("second", "excluded")]


def test_explain_shows_what_the_fuel_leaves_out(monkeypatch, x):
    monkeypatch.setenv("FXKERNELS_FUEL", "1")
    with use_kernel_mapping(MAPPING):
        report = explain(Stack(), x)
    assert [call.status for call in report.calls] == ["rewritten", "excluded", "excluded"]


def test_the_variable_is_read_when_the_backend_is_made_and_a_copy_has_as_much(monkeypatch, x):
    monkeypatch.setenv("FXKERNELS_FUEL", "1")
    backend = hubkernels(inner="eager", mapping=MAPPING)
    monkeypatch.delenv("FXKERNELS_FUEL")
    for each in (backend, copy.deepcopy(backend)):
        torch._dynamo.reset()
        torch.compile(Stack(), backend=each)(x)
        assert rewritten(each.report) == ["blocks.0.norm"]


@pytest.mark.parametrize("said", ["-1", "1.5", "all", "²"])
def test_what_is_no_number_of_calls_is_an_error(monkeypatch, said):
    monkeypatch.setenv("FXKERNELS_FUEL", said)
    with pytest.raises(ValueError, match="FXKERNELS_FUEL=.* is not a number of calls"):
        hubkernels(mapping=MAPPING)


@pytest.mark.parametrize("said", ["", "  "])
def test_an_empty_variable_says_nothing(monkeypatch, said):
    monkeypatch.setenv("FXKERNELS_FUEL", said)
    assert fuel_in_environment() is None


def test_without_a_limit_every_call_is_permitted():
    assert [Fuel().allows(key) for key in ("a#0", "b#0")] == [None, None]
