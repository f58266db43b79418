from __future__ import annotations

import pytest
import torch
from functorch.compile import aot_function, nop
from torch import nn

from fxkernels.kernels.recompute import recomputed_backward

# Dynamo itself makes an instance of autograd.Function, which torch deprecates (2.13)
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def reference(x, w):
    return torch.tanh(x * w) * w


def kernel(x, w):
    return reference(x.detach(), w.detach())


def kernelized(x, w):
    return recomputed_backward(kernel, reference, (x * 2, w)).sin()


def unkernelized(x, w):
    return reference(x * 2, w).sin()


def inputs():
    return tuple(torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))


def gradients(function, *tensors):
    return torch.autograd.grad(function(*tensors).sum(), tensors)


def assert_equal_gradients(function, expected=unkernelized):
    x, w = inputs()
    for ours, theirs in zip(gradients(function, x, w), gradients(expected, x, w), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_values_are_the_kernels_and_gradients_the_references():
    x = torch.ones(3, requires_grad=True)
    y = recomputed_backward(lambda x: x.detach() * 0 + 7, lambda x: x**3, (x,))
    y.sum().backward()
    assert torch.equal(y.detach(), torch.full((3,), 7.0))
    assert torch.equal(x.grad, torch.full((3,), 3.0))


def test_gradient_can_be_differentiated_again():
    assert torch.autograd.gradgradcheck(kernelized, inputs())


def test_without_gradient_only_the_kernel_runs_and_nothing_is_kept():
    def never(*_):
        raise AssertionError

    x = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        assert not recomputed_backward(lambda x: x + 1, never, (x,)).requires_grad
    assert not recomputed_backward(lambda x: x + 1, never, (x.detach(),)).requires_grad
    recomputed_backward(lambda x: x + 1, never, (x,))  # no backward, no reference


def test_only_inputs_that_need_a_gradient_get_one():
    x, w = torch.ones(3, requires_grad=True), torch.ones(3)
    recomputed_backward(kernel, reference, (x, w)).sum().backward()
    assert x.grad is not None
    assert w.grad is None


def test_inputs_that_are_no_tensors_or_integers_pass_through():
    x, index = torch.randn(4, requires_grad=True), torch.tensor([2, 0])

    def pick(x, index, scale, nothing):
        assert nothing is None
        return x[index] * scale

    recomputed_backward(lambda *values: pick(*values).detach(), pick, (x, index, 3, None)).sum().backward()
    assert x.grad.tolist() == [3, 0, 3, 0]


def test_several_outputs_get_their_gradients_even_if_only_one_is_used():
    x = torch.randn(4, requires_grad=True)

    def two(x):
        return x.sin(), x.exp()

    _, second = recomputed_backward(lambda x: tuple(value.detach() for value in two(x)), two, (x,))
    second.sum().backward()
    torch.testing.assert_close(x.grad, x.exp().detach())


def test_integer_outputs_are_not_differentiable():
    x = torch.randn(4, requires_grad=True)

    def top(x):
        return tuple(x.topk(2))

    values, indices = recomputed_backward(lambda x: tuple(value.detach() for value in top(x)), top, (x,))
    assert values.requires_grad
    assert not indices.requires_grad
    values.sum().backward()
    assert x.grad.sum() == 2


def test_an_output_that_the_reference_detaches_contributes_no_gradient():
    x = torch.randn(4, requires_grad=True)

    def partly(x):
        return x * 2, (x * 3).detach()

    one, other = recomputed_backward(lambda x: partly(x.detach()), partly, (x,))
    (one + other).sum().backward()
    assert x.grad.tolist() == [2.0] * 4


def test_a_reference_that_detaches_everything_gives_no_gradient_and_no_error():
    x = torch.randn(4, requires_grad=True)
    (recomputed_backward(torch.detach, torch.detach, (x,)) + x).sum().backward()
    assert x.grad.tolist() == [1.0] * 4


def test_a_reference_may_return_one_tensor_in_a_tuple_where_the_kernel_returns_it_alone():
    assert_equal_gradients(lambda x, w: recomputed_backward(kernel, lambda x, w: (reference(x, w),), (x * 2, w)).sin())


def test_another_number_of_outputs_is_an_error_in_the_backward():
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="returned 2 values where the kernel returned 1"):
        recomputed_backward(torch.sin, lambda x: (x, x), (x,)).sum().backward()


def test_one_tensor_given_twice_gets_the_sum_of_both_gradients():
    x = torch.full((3,), 2.0, requires_grad=True)
    recomputed_backward(lambda a, b: (a * b).detach(), lambda a, b: a * b, (x, x)).sum().backward()
    assert x.grad.tolist() == [4.0] * 3


def test_a_kernel_may_return_its_input():
    x = torch.ones(3, requires_grad=True)
    (recomputed_backward(lambda x: x, lambda x: x * 1, (x * 2,)) * 3).sum().backward()
    assert x.grad.tolist() == [6.0] * 3


def test_an_input_overwritten_before_the_backward_is_noticed():
    x = torch.ones(3, requires_grad=True)
    h = x * 2
    y = recomputed_backward(lambda h: h.detach().sin(), torch.sin, (h,))
    h.detach().add_(1)
    with torch.no_grad():
        h.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_the_reference_is_recomputed_under_the_autocast_of_the_forward():
    linear, seen = nn.Linear(4, 4), []

    def run(x, weight):
        seen.append(torch.is_autocast_enabled("cpu"))
        return nn.functional.linear(x, weight)

    x = torch.randn(2, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = recomputed_backward(lambda *values: nn.functional.linear(*values).detach(), run, (x, linear.weight))
        expected = nn.functional.linear(x, linear.weight)
    y.float().sum().backward()
    ours, x.grad = x.grad, None
    expected.float().sum().backward()
    assert seen == [True]
    assert torch.equal(ours, x.grad)


def test_a_kernel_that_returns_another_dtype_than_the_reference_gets_the_references_gradient():
    x = torch.randn(4, requires_grad=True)
    y = recomputed_backward(lambda x: x.detach().to(torch.bfloat16), lambda x: x * 2, (x,))
    y.sum().backward()
    assert x.grad.tolist() == [2.0] * 4


class OldStyle(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 5


def test_a_reference_that_functorch_refuses_is_differentiated_by_autograd():
    x = torch.ones(3, requires_grad=True)
    recomputed_backward(lambda x: x.detach() * 2, OldStyle.apply, (x,)).sum().backward()
    assert x.grad.tolist() == [5.0] * 3


def test_torch_func_can_transform_it():
    x, w = (value.detach() for value in inputs())
    ours = torch.func.grad(lambda x: kernelized(x, w).sum())(x)
    torch.testing.assert_close(ours, torch.func.grad(lambda x: unkernelized(x, w).sum())(x))


def test_aot_autograd_traces_it():
    assert_equal_gradients(aot_function(kernelized, fw_compiler=nop))


def test_torch_compile_traces_it():
    assert_equal_gradients(torch.compile(kernelized, backend="aot_eager", fullgraph=True))


def test_torch_compile_takes_it_inside_of_a_function_that_is_one_node():
    one_node = torch._dynamo.allow_in_graph(lambda x, w: kernelized(x, w))
    assert_equal_gradients(
        torch.compile(lambda x, w: one_node(x, w) * 2, backend="aot_eager", fullgraph=True), lambda x, w: unkernelized(x, w) * 2
    )


def test_several_outputs_and_integers_are_traced_by_aot_autograd():
    def three(x, w):
        values, indices = (x * w).topk(2)
        return values.exp(), indices, (x + w).detach()

    def ours(x, w):
        return recomputed_backward(lambda x, w: tuple(value.detach() for value in three(x, w)), three, (x, w))

    def total(function):
        return lambda x, w: (lambda out: out[0].sum() + out[1].sum() + out[2].sum() * 0)(function(x, w))

    assert_equal_gradients(aot_function(total(ours), fw_compiler=nop), total(three))
    assert_equal_gradients(torch.compile(total(ours), backend="aot_eager", fullgraph=True), total(three))


def test_under_dynamic_shapes_one_graph_serves_several_sizes():
    compiled = torch.compile(kernelized, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in (3, 5, 8):
        tensors = [torch.randn(size, requires_grad=True) for _ in range(2)]
        for ours, theirs in zip(gradients(compiled, *tensors), gradients(unkernelized, *tensors), strict=True):
            torch.testing.assert_close(ours, theirs)
