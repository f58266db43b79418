"""More than one backward: double backward, retained graphs, accumulation, recomputation by checkpointing, inputs changed in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_rows import NormModel, Row, assert_kernels_ran, exactly
from tolerances import tolerance
from torch.utils.checkpoint import checkpoint

from fxkernels.errors import KernelRuntimeError

pytestmark = pytest.mark.slow

MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def gradients_of(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.grad.double() for parameter in model.parameters()]  # type: ignore[union-attr]


def assert_gradients_are(model: NormModel, reference: torch.nn.Module) -> None:
    for ours, theirs in zip(gradients_of(model), gradients_of(reference), strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance(torch.float32, depth=8))


def gradient_penalty(run: Callable[..., Any], x: torch.Tensor) -> None:
    """A loss with the square of a gradient in it, which needs the backward's own gradient."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(run(x).sum(), x, create_graph=True)
    gradient.square().sum().backward()


# A backward that is an operator without a formula of its own cannot be differentiated again; torch says so.
DIFFERENTIABLE_ONCE = ("CountedRMSNorm",)


@MODES
def test_double_backward_through_a_kernelized_model_is_the_references_or_an_error(row: Row, training: bool, x: torch.Tensor) -> None:
    model = NormModel().train(training)
    kernelized = row.kernelize(model)
    if row.lowering == "opaque":  # an autograd.Function that has saved what it computed; torch takes that for a constant of its backward
        for _ in range(2):
            with pytest.raises(KernelRuntimeError, match=r"(?s)second#0.*Use backward='recompute'"):
                gradient_penalty(kernelized, x)
        return
    if row.layer in DIFFERENTIABLE_ONCE:
        with pytest.raises(RuntimeError, match="no autograd formula was registered"):
            gradient_penalty(kernelized, x)
        return
    reference = exactly(model)
    gradient_penalty(reference, x.double())
    gradient_penalty(kernelized, x)
    assert_gradients_are(model, reference)


@MODES
def test_double_backward_through_a_compiled_graph_is_refused_as_without_kernels(row: Row, training: bool, x: torch.Tensor) -> None:
    run = torch.compile(NormModel().train(training), backend=row.backend("aot_eager"), fullgraph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        gradient_penalty(run, x)


@MODES
def test_a_retained_graph_gives_the_same_gradients_again(row: Row, inner: str, training: bool, x: torch.Tensor) -> None:
    model = NormModel().train(training)
    output = torch.compile(model, backend=row.backend(inner), fullgraph=True)(x.requires_grad_())
    cotangent = torch.randn_like(output)
    kept = cotangent.clone()
    first = torch.autograd.grad(output, [x, *model.parameters()], cotangent, retain_graph=True)
    second = torch.autograd.grad(output, [x, *model.parameters()], cotangent)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert torch.equal(cotangent, kept)


@MODES
def test_a_graph_that_was_not_retained_cannot_be_used_again(row: Row, inner: str, training: bool, x: torch.Tensor) -> None:
    loss = torch.compile(NormModel().train(training), backend=row.backend(inner), fullgraph=True)(x).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@MODES
def test_gradients_accumulate_over_several_batches(row: Row, inner: str, training: bool) -> None:
    model = NormModel().train(training)
    reference = exactly(model)
    run = torch.compile(model, backend=row.backend(inner), fullgraph=True)
    for x in torch.randn(3, 4, 8):
        run(x).square().mean().backward()
        reference(x.double()).square().mean().backward()
    assert_gradients_are(model, reference)


@MODES
def test_two_forwards_before_their_backwards_keep_their_activations_apart(row: Row, inner: str, training: bool) -> None:
    model = NormModel().train(training)
    reference = exactly(model)
    run = torch.compile(model, backend=row.backend(inner), fullgraph=True)
    batches = torch.randn(2, 4, 8)
    for loss in reversed([run(x).square().mean() for x in batches]):
        loss.backward()
    for x in batches.double():
        reference(x).square().mean().backward()
    assert_gradients_are(model, reference)


@MODES
@pytest.mark.parametrize("where", ["in the model", "around the model"])
def test_checkpointing_recomputes_to_the_same_gradients(row: Row, inner: str, training: bool, where: str, x: torch.Tensor) -> None:
    inside = where == "in the model"
    model = NormModel(around=(lambda half, x: checkpoint(half, x, use_reentrant=False)) if inside else None).train(training)
    reference = exactly(model)
    backend = row.backend(inner)
    run = torch.compile(model, backend=backend, fullgraph=True)
    x.requires_grad_()
    wide = x.detach().double().requires_grad_()
    (run(x) if inside else checkpoint(run, x, use_reentrant=False)).square().mean().backward()
    reference(wide).square().mean().backward()
    assert_gradients_are(model, reference)
    torch.testing.assert_close(x.grad.double(), wide.grad, **tolerance(x.dtype, depth=4))  # type: ignore[union-attr]
    assert_kernels_ran(row, backend.report, training=training, inner=inner)


@MODES
def test_a_kernelized_model_can_be_checkpointed(row: Row, training: bool, x: torch.Tensor) -> None:
    model = NormModel(around=lambda half, x: checkpoint(half, x, use_reentrant=False)).train(training)
    reference = exactly(model)
    row.kernelize(model, "auto")(x).square().mean().backward()
    reference(x.double()).square().mean().backward()
    assert_gradients_are(model, reference)


@MODES
def test_reentrant_checkpointing_recomputes_to_the_same_gradients(row: Row, training: bool, x: torch.Tensor) -> None:
    model = NormModel(around=lambda half, x: checkpoint(half, x, use_reentrant=True)).train(training)
    reference = exactly(model)
    row.kernelize(model)(x.requires_grad_()).square().mean().backward()
    reference(x.detach().double().requires_grad_()).square().mean().backward()
    assert_gradients_are(model, reference)


@MODES
def test_an_overwritten_activation_is_an_error_unless_no_gradient_needs_it(row: Row, inner: str, training: bool) -> None:
    model = NormModel().train(training)
    reference = exactly(model)
    run = torch.compile(model, backend=row.backend(inner), fullgraph=True)
    h = torch.randn(3, 8, requires_grad=True) * 2
    reference(h.detach().double()).sum().backward()
    loss = run(h).sum()
    with torch.no_grad():
        h.add_(1)
    if row.layer == "UntraceableRMSNorm":  # it has saved what it computed of its input, which is still there
        loss.backward()
        assert_gradients_are(model, reference)
        return
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@MODES
def test_hooks_that_pack_saved_tensors_see_those_of_a_kernel(row: Row, training: bool, x: torch.Tensor) -> None:
    model = NormModel().train(training)
    reference = exactly(model)
    kernelized = row.kernelize(model)
    with torch.autograd.graph.saved_tensors_hooks(torch.Tensor.clone, lambda tensor: tensor):
        loss = kernelized(x).square().mean()
    loss.backward()
    reference(x.double()).square().mean().backward()
    assert_gradients_are(model, reference)
