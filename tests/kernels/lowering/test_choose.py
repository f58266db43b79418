"""Which lowering a kernel gets, and what the report says of it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from kernel_repositories import repository
from layers import Norm, Stack
from opaque_layers import Around, Scale, assert_equals_float64, backend, lowering
from torch import nn

from fxkernels import Mode, hubkernels, kernelize
from fxkernels.kernels.layer import KernelIdentity
from fxkernels.kernels.lowering.lowering import Lowering
from fxkernels.kernels.lowering.repairs import Repairs
from fxkernels.report.model import CallReport, GraphDecision
from fxkernels.report.report import Report


def x() -> torch.Tensor:
    return torch.randn(6, 8, requires_grad=True)


def of(kernel: str, model: nn.Module, *, grad: bool = True, **options) -> Lowering:
    chosen = hubkernels(inner="aot_eager", mapping={"RMSNorm": {"cpu": repository("norms", kernel)}}, **options)
    with torch.set_grad_enabled(grad):
        torch.compile(model, backend=chosen, fullgraph=True)(x())
    (call,) = chosen.report.calls
    return call.decisions[-1].lowering


def test_plain_torch_is_traced_and_the_report_does_not_mention_it() -> None:
    found = of("RMSNorm", Norm())
    assert (found.name, found.reason, found.remarks) == ("traced", "a compiler can follow its Python forward and backward", ())


def test_operators_with_a_fake_are_traced_and_named() -> None:
    found = of("CountedRMSNorm", Norm(), grad=False)
    assert found.reason == "a compiler can follow its Python, with the operators fxtest_norms::counted_rms_norm"


def test_a_kernel_without_a_fake_is_opaque_because_of_that_operator() -> None:
    chosen = backend("Scale", "BranchingScale")
    torch.compile(Around(Scale()), backend=chosen, fullgraph=True)(x())
    assert lowering(chosen).name == "opaque"
    assert lowering(chosen).reason.startswith("it cannot be traced: ")


def test_a_kernel_that_can_only_be_traced_forward_is_opaque_where_a_gradient_is_needed() -> None:
    assert of("UntraceableRMSNorm", Norm()).name == "opaque"


def test_a_detached_output_is_found_before_the_first_run(caplog: pytest.LogCaptureFixture) -> None:
    found = of("DetachedRMSNorm", Norm())
    assert found.recomputes == "the original layer in the backward: it returns a detached output"
    assert "it returns a detached output; its gradient is the original layer's, recomputed" in caplog.text


def test_a_kernel_without_a_backward_trains_with_the_layers_gradient_if_asked_to() -> None:
    model = Around(Norm())
    chosen = hubkernels(inner="aot_eager", mapping={"RMSNorm": {"cpu": repository("norms", "InferenceRMSNorm")}}, backward="recompute")
    assert_equals_float64(model, torch.compile(model, backend=chosen, fullgraph=True), x(), rtol=1e-3, atol=1e-3)
    assert lowering(chosen).remarks == ("recomputes the original layer in the backward: the kernel has no backward",)


def test_a_copy_that_is_not_compiled_has_no_lowering() -> None:
    copied = kernelize(Stack(), mapping={"RMSNorm": {"cpu": repository("norms", "UntraceableRMSNorm")}})
    copied(torch.randn(3, 8))
    assert {decision.lowering for call in copied.report.calls for decision in call.decisions} == {None}


@pytest.mark.parametrize("capture", ["auto", "dynamo"])
def test_a_copy_trains_a_kernel_without_a_backward_if_asked_to(capture: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8), Norm())
    mapping = {"RMSNorm": {"cpu": {Mode.TRAINING: repository("norms", "InferenceRMSNorm")}}}
    copied = kernelize(model, mapping=mapping, capture=capture, backward="recompute")
    assert_equals_float64(model, copied, x(), rtol=1e-3, atol=1e-3)
    assert [call.status for call in copied.report.calls] == ["rewritten"]


def test_kernels_that_declare_nothing_are_taken_for_a_compiler_if_they_may_be_opaque() -> None:
    mapping = {"RMSNorm": {"cpu": {Mode.INFERENCE | Mode.TORCH_COMPILE: repository("norms", "UntraceableRMSNorm")}}}
    copied = kernelize(Stack().eval(), mapping=mapping, needs_torch_compile=True, opaque=True, capture="dynamo")
    copied(torch.randn(3, 8))
    assert {call.status for call in copied.report.calls} == {"rewritten"}


def test_the_report_says_what_is_recomputed_and_copied() -> None:
    found = Lowering("opaque", "it cannot be traced", Repairs((0, 1)), ("q", "k"), "it stashes")
    call = CallReport(
        "attention",
        0,
        "Rotary",
        "Rotary",
        None,
        (GraphDecision(0, "rewritten", KernelIdentity("acme/rotary", None, "Rotary", None), (), found),),
    )
    text = " ".join(str(Report((call,))).split())
    assert "opaque; recomputes its forward in the backward: it stashes; clones q, k: the kernel overwrites them" in text


def test_calls_with_different_lowerings_are_not_folded() -> None:
    def call(number: int, lowering: Lowering | None) -> CallReport:
        return CallReport(f"layers.{number}", 0, "Norm", "Norm", None, (GraphDecision(0, "rewritten", kernel, (), lowering),))

    kernel = KernelIdentity("acme/norms", None, "RMSNorm", None)
    opaque = Lowering("opaque", "it cannot be traced")
    same = Report((call(0, opaque), call(1, dataclasses.replace(opaque, reason="another"))))
    other = Report((call(0, opaque), call(1, None)))
    assert "layers.{0..1} x2" in str(same)
    assert "x2" not in str(other)
