"""What kernels in the wild get wrong without an error, and built-in ones must not."""

from __future__ import annotations

import torch
from tolerances import tolerance


def differentiated(tensors):
    return [tensor for tensor in tensors if tensor.requires_grad]


def test_inputs_and_incoming_gradients_are_unchanged(case, dtype):
    tensors = case.tensors(dtype)
    outputs = case.kernel(*tensors)
    grads = [torch.randn_like(output) for output in outputs]
    before = [tensor.detach().clone() for tensor in (*tensors, *grads)]
    torch.autograd.grad(outputs, differentiated(tensors), grads)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip((*tensors, *grads), before, strict=True))


def test_transposed_inputs_are_unchanged(case, dtype):
    tensors = [tensor.detach() for tensor in case.tensors(dtype)]
    tensors = [tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor for tensor in tensors]
    before = [tensor.clone() for tensor in tensors]
    case.kernel(*tensors)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, before, strict=True))


def test_a_second_backward_equals_the_first(case, dtype):
    tensors = case.tensors(dtype)
    outputs = case.kernel(*tensors)
    grads = [torch.randn_like(output) for output in outputs]
    first = torch.autograd.grad(outputs, differentiated(tensors), grads, retain_graph=True)
    second = torch.autograd.grad(outputs, differentiated(tensors), grads)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_outputs_can_be_changed_in_place_before_the_backward(case):
    tensors = case.tensors(torch.float32)
    plain = torch.autograd.grad(sum(output.sum() for output in case.kernel(*tensors)), differentiated(tensors))
    changed = torch.autograd.grad(sum(output.mul_(2).sum() for output in case.kernel(*tensors)), differentiated(tensors))
    for a, b in zip(changed, plain, strict=True):
        torch.testing.assert_close(a, 2 * b)


def test_outputs_share_no_memory_with_inputs(case, dtype):
    tensors = case.tensors(dtype)
    storages = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    assert all(output.untyped_storage().data_ptr() not in storages for output in case.kernel(*tensors))


def test_second_derivatives_are_the_references(case):
    tensors = case.tensors(torch.float32)

    def second_derivatives(function):
        outputs = function(*tensors)
        first = torch.autograd.grad(outputs, differentiated(tensors), [torch.ones_like(output) for output in outputs], create_graph=True)
        penalty = sum(grad.square().sum() for grad in first) + sum(output.square().sum() for output in outputs)
        return torch.autograd.grad(penalty, differentiated(tensors))

    for a, b in zip(second_derivatives(case.kernel), second_derivatives(case.reference), strict=True):
        torch.testing.assert_close(a, b, **tolerance(torch.float32, depth=8))
