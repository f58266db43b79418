"""Gradients through kernels, whoever asks for them: training and evaluation, no_grad, inference mode, frozen parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_rows import NormModel, Row, assert_kernels_ran, exactly
from tolerances import tolerance

pytestmark = pytest.mark.slow


def compiled(model: NormModel, row: Row, inner: str) -> tuple[Callable[..., Any], Any]:
    backend = row.backend(inner)
    return torch.compile(model, backend=backend, fullgraph=True), backend


def gradients(run: Callable[..., Any], inputs: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """The output for the first of the inputs, and the gradients of a scalar of it for those of them that want one."""
    output = run(inputs[0])
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    return output.detach(), list(torch.autograd.grad((output * weights).sum(), wanted))


def assert_equals_reference(run: Callable[..., Any], model: NormModel, x: torch.Tensor) -> None:
    """Compare values and all gradients with those of the model in float64."""
    reference = exactly(model)
    wide = x.detach().double().requires_grad_(x.requires_grad)
    expected, expected_gradients = gradients(reference, [wide, *reference.parameters()])
    output, found = gradients(run, [x, *model.parameters()])
    torch.testing.assert_close(output.double(), expected, **tolerance(x.dtype, depth=2))
    assert len(found) == len(expected_gradients)
    for ours, theirs in zip(found, expected_gradients, strict=True):
        torch.testing.assert_close(ours.double(), theirs, **tolerance(x.dtype, depth=4))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_values_and_gradients_are_those_of_the_reference_in_float64(row: Row, inner: str, training: bool, x: torch.Tensor) -> None:
    model = NormModel().train(training)
    run, backend = compiled(model, row, inner)
    assert_equals_reference(run, model, x.requires_grad_())
    assert_kernels_ran(row, backend.report, training=training, inner=inner)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("capture", ["dynamo", "auto"])
def test_a_kernelized_model_has_the_gradients_of_the_reference(row: Row, training: bool, capture: Any, x: torch.Tensor) -> None:
    model = NormModel().train(training)
    kernelized = row.kernelize(model, capture)
    assert_equals_reference(kernelized, model, x.requires_grad_())
    assert_kernels_ran(row, kernelized.report, training=training)


FREEZE: dict[str, Callable[[NormModel], Any]] = {
    "only the input": lambda model: model.requires_grad_(False),
    "only a weight of a kernel": lambda model: (model.requires_grad_(False), model.first.weight.requires_grad_()),
    "a weight of a kernel is frozen": lambda model: model.second.weight.requires_grad_(False),
    "only what is between": lambda model: (model.requires_grad_(False), model.linear.weight.requires_grad_()),
}


@pytest.mark.parametrize("frozen", FREEZE)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_frozen_parameters_get_no_gradient_and_the_others_theirs(
    row: Row, inner: str, frozen: str, training: bool, x: torch.Tensor
) -> None:
    model = NormModel().train(training)
    FREEZE[frozen](model)
    run, _ = compiled(model, row, inner)
    assert_equals_reference(run, model, x.requires_grad_(frozen == "only the input"))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_an_input_without_gradient_leaves_the_weights_theirs(row: Row, inner: str, training: bool, x: torch.Tensor) -> None:
    model = NormModel().train(training)
    assert_equals_reference(compiled(model, row, inner)[0], model, x)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_kernel_runs_and_nothing_is_recorded(row: Row, inner: str, off: Any, x: torch.Tensor) -> None:
    model = NormModel().eval()
    run, backend = compiled(model, row, inner)
    with off():
        output = run(x)
    assert not output.requires_grad
    assert output.is_inference() is (off is torch.inference_mode)
    torch.testing.assert_close(output.double(), exactly(model)(x.double()).detach(), **tolerance(x.dtype, depth=2))
    assert_kernels_ran(row, backend.report, training=False, inner=inner)


@pytest.mark.parametrize("first", [torch.no_grad, torch.inference_mode])
def test_a_model_that_ran_without_gradients_has_them_when_they_are_asked_for(row: Row, inner: str, first: Any, x: torch.Tensor) -> None:
    model = NormModel().eval()
    run, _ = compiled(model, row, inner)
    with first():
        run(x)
    assert_equals_reference(run, model, x.requires_grad_())


def test_a_model_goes_from_training_to_evaluation_and_back(row: Row, inner: str, x: torch.Tensor) -> None:
    model = NormModel()
    run, _ = compiled(model, row, inner)
    for training in (True, False, True):
        model.train(training)
        assert_equals_reference(run, model, x.detach().requires_grad_())


@pytest.mark.parametrize("how", ["inside", "around"])
def test_no_grad_inside_the_model_cuts_only_what_it_cuts_in_the_reference(row: Row, inner: str, how: str, x: torch.Tensor) -> None:
    def without(half: Callable[..., Any], x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad() if how == "inside" else contextlib.nullcontext():
            y = half(x)
        return y.detach() if how == "around" else y

    model = NormModel(around=without).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("second"))
    assert_equals_reference(compiled(model, row, inner)[0], model, x)


def test_the_output_is_never_silently_detached(row: Row, inner: str, x: torch.Tensor) -> None:
    for training in (True, False):
        model = NormModel().train(training)
        run, _ = compiled(model, row, inner)
        assert run(x).requires_grad
        assert run(x.requires_grad_()).requires_grad


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_inductor_gives_the_gradients_of_the_reference(row: Row, training: bool, x: torch.Tensor) -> None:
    model = NormModel().train(training)
    run, backend = compiled(model, row, "inductor")
    assert_equals_reference(run, model, x.requires_grad_())
    assert_kernels_ran(row, backend.report, training=training, inner="inductor")
