"""Kernels under autocast: the dtype that the reference returns, its gradients, and autocast inside and around the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_rows import NormModel, Row, assert_kernels_ran, exactly
from tolerances import tolerance

pytestmark = pytest.mark.slow

MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])


def step(run: Callable[..., Any], x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """One forward under autocast and the gradient of the input."""
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        output = run(x)
    (gradient,) = torch.autograd.grad(output.float().square().mean(), x)
    return output, gradient


def assert_like(ours: tuple[torch.Tensor, torch.Tensor], model: NormModel, x: torch.Tensor, dtype: torch.dtype) -> None:
    """The dtypes of the model itself under autocast, the values of the model in float64."""
    output, gradient = ours
    plain, plain_gradient = step(model, x, dtype)
    assert output.requires_grad
    assert (output.dtype, gradient.dtype) == (plain.dtype, plain_gradient.dtype)
    wide = x.detach().double().requires_grad_()
    expected = exactly(model)(wide)
    (expected_gradient,) = torch.autograd.grad(expected.square().mean(), wide)
    torch.testing.assert_close(output.double(), expected, **tolerance(dtype, depth=3))
    torch.testing.assert_close(gradient.double(), expected_gradient, **tolerance(dtype, depth=3))


@MODES
@DTYPES
def test_autocast_around_a_compiled_model(row: Row, inner: str, training: bool, dtype: torch.dtype, x: torch.Tensor) -> None:
    model = NormModel().train(training)
    backend = row.backend(inner)
    assert_like(step(torch.compile(model, backend=backend, fullgraph=True), x, dtype), model, x, dtype)
    assert_kernels_ran(row, backend.report, training=training, inner=inner)


@MODES
def test_autocast_around_a_kernelized_model(row: Row, training: bool, x: torch.Tensor) -> None:
    model = NormModel().train(training)
    for capture in ("dynamo", "auto"):
        kernelized = row.kernelize(model, capture)
        assert_like(step(kernelized, x, torch.bfloat16), model, x, torch.bfloat16)


@MODES
def test_autocast_inside_of_the_model(row: Row, inner: str, training: bool, x: torch.Tensor) -> None:
    def half_under_autocast(half: Callable[..., Any], x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return half(x)

    model = NormModel(around=half_under_autocast).train(training)
    run = torch.compile(model, backend=row.backend(inner), fullgraph=True)
    x.requires_grad_()
    output, expected = run(x), model(x)
    assert output.dtype == expected.dtype
    torch.testing.assert_close(output, expected, **tolerance(torch.bfloat16, depth=2))
    ours, theirs = (torch.autograd.grad(value.square().mean(), x)[0] for value in (output, expected))
    torch.testing.assert_close(ours, theirs, **tolerance(torch.bfloat16, depth=2))


@MODES
def test_a_model_in_half_precision_keeps_its_dtype(row: Row, inner: str, training: bool, x: torch.Tensor) -> None:
    model = NormModel().bfloat16().train(training)
    run = torch.compile(model, backend=row.backend(inner), fullgraph=True)
    x = x.bfloat16().requires_grad_()
    output = run(x)
    assert output.dtype == torch.bfloat16
    output.float().square().mean().backward()
    wide = x.detach().double().requires_grad_()
    exactly(model)(wide).square().mean().backward()
    torch.testing.assert_close(x.grad.double(), wide.grad, **tolerance(torch.bfloat16, depth=3))  # type: ignore[union-attr]


def test_switching_autocast_on_and_off_compiles_each_once_and_returns_the_dtype_of_each(row: Row, inner: str, x: torch.Tensor) -> None:
    model = NormModel().eval()
    backend = row.backend(inner)
    run = torch.compile(model, backend=backend, fullgraph=True)
    for enabled in (False, True, False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            assert run(x).dtype == model(x).dtype
    assert len(backend.report.graphs) == 2


def test_a_gradient_scaler_finds_the_gradients_of_a_kernel(row: Row, inner: str, x: torch.Tensor) -> None:
    model = NormModel()
    run = torch.compile(model, backend=row.backend(inner), fullgraph=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = run(x).float().square().mean()
    scaler.scale(loss).backward()
    reference = exactly(model)
    reference(x.double()).square().mean().backward()
    scaler.unscale_(optimizer)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, **tolerance(torch.float16, depth=4))  # type: ignore[union-attr]
