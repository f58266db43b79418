"""Shapes: as many compilations as without kernels, and the right numbers for all sizes, empty ones among them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_rows import ROWS, NormModel, Row, assert_kernels_ran, exactly
from tolerances import tolerance
from torch._dynamo.utils import counters  # private: nothing public says how often Dynamo has compiled

pytestmark = pytest.mark.slow

SIZES = (3, 3, 5, 1, 0)


def assert_right(run: Callable[..., Any], model: NormModel, x: torch.Tensor) -> None:
    """Values and gradients against the model in float64."""
    x = x.detach().requires_grad_()
    wide = x.detach().double().requires_grad_()
    output, expected = run(x), exactly(model)(wide)
    torch.testing.assert_close(output.double(), expected, **tolerance(x.dtype, depth=2))
    (ours,), (theirs,) = torch.autograd.grad(output.square().sum(), x), torch.autograd.grad(expected.square().sum(), wide)
    torch.testing.assert_close(ours.double(), theirs, **tolerance(x.dtype, depth=8))


def compilations(backend: Any, sizes: tuple[int, ...], *, dynamic: bool | None, training: bool) -> list[int]:
    """How many graphs each of these batch sizes compiled, one after the other."""
    torch._dynamo.reset()
    run = torch.compile(NormModel().train(training), backend=backend, dynamic=dynamic, fullgraph=True)
    counts = []
    for size in sizes:
        counters.clear()
        run(torch.randn(size, 8))
        counts.append(counters["stats"]["unique_graphs"])
    return counts


@functools.cache
def without_kernels(inner: str, sizes: tuple[int, ...], dynamic: bool | None, training: bool) -> list[int]:
    return compilations(inner, sizes, dynamic=dynamic, training=training)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dynamic", [None, True, False], ids=["automatic", "dynamic", "static"])
def test_sizes_compile_as_often_as_without_kernels(row: Row, dynamic: bool | None, training: bool) -> None:
    ours = compilations(row.backend("aot_eager"), SIZES, dynamic=dynamic, training=training)
    assert ours == without_kernels("aot_eager", SIZES, dynamic, training)


@pytest.mark.parametrize("dynamic", [None, True], ids=["automatic", "dynamic"])
def test_inductor_compiles_sizes_as_often_as_without_kernels(dynamic: bool | None) -> None:
    sizes = (3, 3, 4, 5)
    ours = compilations(ROWS["own backward"].backend("inductor"), sizes, dynamic=dynamic, training=False)
    assert ours == without_kernels("inductor", sizes, dynamic, False)


def test_a_marked_dimension_is_compiled_once(row: Row) -> None:
    run = torch.compile(NormModel().eval(), backend=row.backend("aot_eager"), fullgraph=True)
    counters.clear()
    for size in (3, 4, 5, 7):
        x = torch.randn(size, 8)
        torch._dynamo.mark_dynamic(x, 0)
        run(x)
    assert counters["stats"]["unique_graphs"] == 1


def test_a_dimension_marked_dynamic_that_the_model_fixes_is_an_error_as_without_kernels(row: Row) -> None:
    x = torch.randn(3, 8)
    torch._dynamo.mark_dynamic(x, 1)  # the weights fix it
    for backend in ("aot_eager", row.backend("aot_eager")):
        torch._dynamo.reset()
        with pytest.raises(Exception, match="(?i)mark_dynamic|constraint"):
            torch.compile(NormModel().eval(), backend=backend, fullgraph=True)(x)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dynamic", [None, True, False], ids=["automatic", "dynamic", "static"])
def test_every_size_has_the_values_and_gradients_of_the_reference(row: Row, dynamic: bool | None, training: bool) -> None:
    model, backend = NormModel().train(training), row.backend("aot_eager")
    run = torch.compile(model, backend=backend, dynamic=dynamic, fullgraph=True)
    for size in SIZES:
        assert_right(run, model, torch.randn(size, 8))
    assert_kernels_ran(row, backend.report, training=training, inner="aot_eager")


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_an_empty_batch_comes_out_empty_with_zero_gradients(row: Row, training: bool) -> None:
    model = NormModel().train(training)
    x = torch.randn(0, 8, requires_grad=True)
    output = torch.compile(model, backend=row.backend("aot_eager"), fullgraph=True)(x)
    output.sum().backward()
    assert output.shape == (0, 8)
    assert x.grad is not None
    assert x.grad.shape == (0, 8)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())
