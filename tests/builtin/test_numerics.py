"""Built-in kernel layers compute what the reference computes, forward and backward."""

from __future__ import annotations

import pytest
import torch
from tolerances import tolerance


def differentiated(tensors):
    return [tensor for tensor in tensors if tensor.requires_grad]


def strided(tensor):
    """The same values with gaps in the last dimension."""
    return torch.stack((tensor.detach(), torch.full_like(tensor, 7)), -1)[..., 0].requires_grad_(tensor.requires_grad)


def assert_gradients_agree(function, tensors, expected_function, expected_tensors):
    outputs, expected = function(*tensors), expected_function(*expected_tensors)
    grads = [torch.randn_like(output) for output in outputs]
    got = torch.autograd.grad(outputs, differentiated(tensors), grads)
    wanted = torch.autograd.grad(expected, differentiated(expected_tensors), [g.to(e.dtype) for g, e in zip(grads, expected, strict=True)])
    for a, b, tensor in zip(got, wanted, differentiated(tensors), strict=True):
        assert a.dtype == tensor.dtype
        torch.testing.assert_close(a.to(b.dtype), b, **tolerance(tensor.dtype))


def test_outputs_agree_with_the_exact_function_in_float64(case, dtype):
    tensors = case.tensors(dtype)
    for output, expected in zip(case.kernel(*tensors), case.exact(*(t.double() for t in tensors)), strict=True):
        torch.testing.assert_close(output.double(), expected, **tolerance(dtype))


def test_outputs_have_the_metadata_of_the_eager_references(case, dtype):
    tensors = case.tensors(dtype)
    for output, expected in zip(case.kernel(*tensors), case.reference(*tensors), strict=True):
        assert (output.shape, output.dtype, output.stride()) == (expected.shape, expected.dtype, expected.stride())


@pytest.mark.parametrize("without_gradient", [torch.no_grad, torch.inference_mode])
def test_outputs_are_the_same_without_gradients(case, dtype, without_gradient):
    tensors = case.tensors(dtype)
    with without_gradient():
        outputs = case.kernel(*tensors)
    for output, expected in zip(outputs, case.kernel(*tensors), strict=True):
        assert not output.requires_grad
        assert torch.equal(output, expected.detach())


def test_gradients_agree_with_the_exact_functions_in_float64(case, dtype):
    tensors = case.tensors(dtype)
    doubles = [tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in tensors]
    assert_gradients_agree(case.kernel, tensors, case.exact, doubles)


def test_inputs_with_gaps_give_the_same_outputs_and_gradients(case, dtype):
    tensors = case.tensors(dtype)
    with_gaps = [strided(tensor) for tensor in tensors]
    assert with_gaps[0].stride(-1) == 2
    for output, expected in zip(case.kernel(*with_gaps), case.reference(*tensors), strict=True):
        torch.testing.assert_close(output, expected, **tolerance(dtype))
    assert_gradients_agree(case.kernel, with_gaps, case.reference, tensors)


def test_an_expanded_incoming_gradient_gives_the_same_gradients(case):
    tensors = case.tensors(torch.float32)
    outputs = case.kernel(*tensors)
    got = torch.autograd.grad(sum(output.sum() for output in outputs), differentiated(tensors))  # sum() hands on an expanded scalar
    wanted = torch.autograd.grad(sum(output.sum() for output in case.reference(*tensors)), differentiated(tensors))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, **tolerance(torch.float32))


def test_an_empty_batch_gives_empty_outputs_and_zero_gradients(case, dtype):
    tensors = case.tensors(dtype, batch=0)
    outputs = case.kernel(*tensors)
    assert [output.shape for output in outputs] == [output.shape for output in case.reference(*tensors)]
    for grad, tensor in zip(torch.autograd.grad(outputs, differentiated(tensors), outputs), differentiated(tensors), strict=True):
        assert torch.equal(grad, torch.zeros_like(tensor))
