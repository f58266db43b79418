"""What only the rotary embedding can get wrong: layouts of q and k, half-dimension cos and sin, mixed dtypes."""

from __future__ import annotations

import itertools

import pytest
import torch
from tolerances import tolerance

from fxkernels.demo_model import rotary_pos_emb as full_reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def half_reference(q, k, cos, sin, unsqueeze_dim=1):
    """The rotation as gpt-oss writes it, with cos and sin for one half of the head."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)

    def rotate(x):
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    return rotate(q), rotate(k)


@pytest.fixture
def kernel(kernel_class):
    return kernel_class("rotary_pos_emb")()


@pytest.fixture(params=["full", "half"])
def form(request):
    """The reference and the size of the last dimension of cos and sin for heads of 8."""
    return {"full": (full_reference, 8), "half": (half_reference, 4)}[request.param]


def arguments(size, *, unsqueeze_dim=1, dtypes=(torch.float32, torch.float32, torch.float32)):
    q, k = (torch.randn(2, 5, heads, 8).to(dtypes[0]) for heads in (4, 2))
    if unsqueeze_dim == 1:
        q, k = q.transpose(1, 2), k.transpose(1, 2)
    return [q.requires_grad_(), k.requires_grad_(), *(torch.randn(2, 5, size).to(dtype) for dtype in dtypes[1:])]


@pytest.mark.parametrize("unsqueeze_dim", [1, 2, -2])
def test_both_forms_and_every_layout_of_heads_agree_with_the_reference(kernel, form, unsqueeze_dim):
    reference, size = form
    tensors = arguments(size, unsqueeze_dim=unsqueeze_dim)
    for output, expected in zip(kernel(*tensors, unsqueeze_dim), reference(*tensors, unsqueeze_dim), strict=True):
        assert output.stride() == expected.stride()
        torch.testing.assert_close(output, expected, **tolerance(torch.float32))


@pytest.mark.parametrize("unsqueeze_dim", [1, 2, -2])
def test_gradients_of_both_forms_agree_with_the_reference(kernel, form, unsqueeze_dim):
    reference, size = form
    tensors = arguments(size, unsqueeze_dim=unsqueeze_dim)
    outputs, expected = kernel(*tensors, unsqueeze_dim), reference(*tensors, unsqueeze_dim)
    grads = [torch.randn_like(output) for output in outputs]
    got, wanted = (torch.autograd.grad(values, tensors[:2], grads) for values in (outputs, expected))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, **tolerance(torch.float32))


@pytest.mark.parametrize("dtypes", list(itertools.product(DTYPES, repeat=3)), ids=str)
def test_mixed_dtypes_are_promoted_as_in_the_reference(kernel, form, dtypes):
    reference, size = form
    tensors = arguments(size, dtypes=dtypes)
    outputs, expected = kernel(*tensors), reference(*tensors)
    rounded_to = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    for output, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, wanted, **tolerance(rounded_to))
    got, wanted = (torch.autograd.grad(sum(output.sum() for output in values), tensors[:2]) for values in (outputs, expected))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, **tolerance(rounded_to))


def test_cos_and_sin_that_require_a_gradient_get_the_references(kernel, form):
    reference, size = form
    tensors = [tensor.detach().requires_grad_() for tensor in arguments(size)]
    outputs, expected = kernel(*tensors), reference(*tensors)
    got, wanted = (torch.autograd.grad(sum(output.square().sum() for output in values), tensors) for values in (outputs, expected))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, **tolerance(torch.float32, depth=8))  # sums over heads of squares


def test_one_batch_of_queries_is_broadcast_to_the_batch_of_cos(kernel, form):
    reference, size = form
    q, k, cos, sin = arguments(size)
    tensors = [q.detach()[:1].requires_grad_(), k.detach()[:1].requires_grad_(), cos, sin]
    outputs, expected = kernel(*tensors), reference(*tensors)
    for output, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, wanted, **tolerance(torch.float32))
    got, wanted = (torch.autograd.grad(sum(output.sum() for output in values), tensors[:2]) for values in (outputs, expected))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, **tolerance(torch.float32))


@pytest.mark.parametrize("used", [0, 1])
def test_gradients_are_right_when_only_queries_or_only_keys_are_used(kernel, form, used):
    reference, size = form
    tensors = arguments(size)
    got, wanted = (torch.autograd.grad(function(*tensors)[used].sum(), tensors[used]) for function in (kernel, reference))
    torch.testing.assert_close(got, wanted, **tolerance(torch.float32))


def test_frozen_keys_get_no_gradient(kernel):
    q, k, cos, sin = arguments(8)
    outputs = kernel(q, k.detach(), cos, sin)
    assert not outputs[1].requires_grad
    (got,) = torch.autograd.grad(outputs[0].sum(), q)
    (wanted,) = torch.autograd.grad(full_reference(q, k, cos, sin)[0].sum(), q)
    torch.testing.assert_close(got, wanted, **tolerance(torch.float32))


def test_an_odd_head_size_is_rotated_as_llama_does(kernel):
    def rotate_half(x):
        middle = x.shape[-1] // 2
        return torch.cat((-x[..., middle:], x[..., :middle]), dim=-1)

    q, k, cos, sin = torch.randn(1, 2, 3, 7), torch.randn(1, 1, 3, 7), torch.randn(1, 3, 7), torch.randn(1, 3, 7)
    expected = [x * cos.unsqueeze(1) + rotate_half(x) * sin.unsqueeze(1) for x in (q, k)]
    assert all(torch.equal(a, b) for a, b in zip(kernel(q, k, cos, sin), expected, strict=True))


def test_sizes_that_the_reference_refuses_are_refused(kernel):
    q, k, _, _ = arguments(8)
    with pytest.raises(RuntimeError, match="must match the size"):
        kernel(q, k, torch.randn(2, 5, 3), torch.randn(2, 5, 3))
