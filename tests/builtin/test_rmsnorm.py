"""What only RMSNorm can get wrong."""

from __future__ import annotations

import itertools

import pytest
import torch
from tolerances import tolerance

from fxkernels import demo_model

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def layers(kernel_class):
    """A function that makes the reference and the kernel layer with one weight."""

    def make(size, dtype):
        reference = demo_model.RMSNorm(size).to(dtype)
        torch.nn.init.normal_(reference.weight)
        kernel = kernel_class("RMSNorm")()
        kernel.weight, kernel.variance_epsilon = reference.weight, reference.variance_epsilon
        return reference, kernel

    return make


@pytest.mark.parametrize(("input_dtype", "weight_dtype"), list(itertools.product([*DTYPES, torch.float64], DTYPES)), ids=str)
def test_output_dtype_is_promoted_with_the_weights_as_in_the_reference(layers, input_dtype, weight_dtype):
    reference, kernel = layers(16, weight_dtype)
    x = torch.randn(3, 16, dtype=input_dtype)
    assert kernel(x).dtype == reference(x).dtype
    rounded_to = max(weight_dtype, input_dtype, key=lambda dtype: torch.finfo(dtype).eps)
    torch.testing.assert_close(kernel(x), reference(x), **tolerance(rounded_to))


def test_a_float32_weight_and_a_bfloat16_input_get_gradients_of_their_own_dtypes(layers):
    reference, kernel = layers(16, torch.float32)
    x = torch.randn(3, 16, dtype=torch.bfloat16, requires_grad=True)
    got = torch.autograd.grad(kernel(x).sum(), (x, kernel.weight))
    wanted = torch.autograd.grad(reference(x).sum(), (x, reference.weight))
    assert [grad.dtype for grad in got] == [torch.bfloat16, torch.float32]
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, **tolerance(torch.bfloat16))


def test_the_weight_gradient_of_many_bfloat16_rows_is_summed_in_float32(layers):
    _, kernel = layers(16, torch.bfloat16)
    x, grad = torch.randn(8192, 16).bfloat16(), torch.rand(8192, 16).bfloat16()
    (got,) = torch.autograd.grad(kernel(x.abs()), kernel.weight, grad)
    x64 = x.double().abs()
    wanted = (grad.double() * x64 * torch.rsqrt(x64.pow(2).mean(-1, keepdim=True) + 1e-6)).sum(0)
    torch.testing.assert_close(got.double(), wanted, rtol=torch.finfo(torch.bfloat16).eps / 2, atol=0)  # one rounding, at the end


@pytest.mark.parametrize("frozen", ["input", "weight"])
def test_what_is_frozen_gets_no_gradient_and_the_other_its_own(layers, frozen):
    reference, kernel = layers(16, torch.float32)
    x = torch.randn(3, 16, requires_grad=frozen == "weight")
    kernel.weight.requires_grad_(frozen == "input")
    trained = kernel.weight if frozen == "input" else x
    (got,) = torch.autograd.grad(kernel(x).sum(), trained)
    (wanted,) = torch.autograd.grad(reference(x).sum(), trained)
    torch.testing.assert_close(got, wanted, **tolerance(torch.float32))


def test_a_residual_added_after_the_norm_keeps_its_gradient(layers):
    reference, kernel = layers(16, torch.float32)
    x = torch.randn(3, 16, requires_grad=True)
    (got,) = torch.autograd.grad((x + kernel(x)).square().sum(), x)
    (wanted,) = torch.autograd.grad((x + reference(x)).square().sum(), x)
    torch.testing.assert_close(got, wanted, **tolerance(torch.float32, depth=4))  # squares of order 10


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e18])
def test_float32_output_has_the_references_bits_at_any_scale(layers, scale):
    reference, kernel = layers(16, torch.float32)
    x = torch.randn(3, 16) * scale
    assert torch.equal(kernel(x), reference(x))
