"""The gradient of a kernel's gradient: right, or refused."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fxkernels.errors import KernelRuntimeError
from fxkernels.kernels.call import KernelCall, Slot
from fxkernels.kernels.layer import KernelIdentity, KernelLayer

REFUSED = r"(?s)acme/kernels.*layers\.0#0.*Use backward='recompute'"


def kernel_call(function: Callable[..., Any], outputs: int = 1) -> KernelCall:
    """A call of this function of x and a weight."""
    cls = type("Kernel", (nn.Module,), {"forward": lambda self, x, weight: function(x, weight)})
    return KernelCall(
        KernelLayer(cls, KernelIdentity("acme/kernels", "9a31f0c5" * 5, "Kernel", None)),
        "layers.0#0",
        build_self=lambda inputs: None,
        args=(Slot(0), Slot(1)),
        kwargs={},
        reference=lambda x, weight: (x.exp() * weight,),
        outputs=outputs,
        differentiable=True,
    )


class SavesInputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return x.exp() * weight

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return grad * x.exp() * weight, (grad * x.exp()).sum(0)


class SavesOutput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        output = x.exp() * weight
        ctx.save_for_backward(weight, output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        weight, output = ctx.saved_tensors
        return grad * output, (grad * output / weight).sum(0)


class SavesComputed(torch.autograd.Function):
    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x.exp() * weight

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: torch.Tensor) -> None:
        x, weight = inputs
        ctx.save_for_backward(x.exp(), weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        power, weight = ctx.saved_tensors
        return grad * power * weight, (grad * power).sum(0)


class Stashes(SavesComputed):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: torch.Tensor) -> None:
        ctx.kept = [inputs[0].exp()]
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        return grad * ctx.kept[0] * weight, (grad * ctx.kept[0]).sum(0)


class SavesAlias(SavesComputed):
    """Torch does not know a part of an input for what it is."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: torch.Tensor) -> None:
        ctx.save_for_backward(inputs[0].view(-1), inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        flat, weight = ctx.saved_tensors
        power = flat.view_as(grad).exp()
        return grad * power * weight, (grad * power).sum(0)


def values(*, weight_needs_gradient: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(3, 4, requires_grad=True), torch.rand(4).add(0.5).requires_grad_(weight_needs_gradient)


def second_order(run: Callable[..., Any], x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    (gradient,) = torch.autograd.grad(run(x, weight).sin().sum(), x, create_graph=True)
    return torch.autograd.grad(gradient.square().sum(), [x, weight] if weight.requires_grad else [x])


def expected(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return second_order(lambda x, weight: x.exp() * weight, x, weight)


@pytest.mark.parametrize("function", [SavesInputs, SavesOutput])
@pytest.mark.parametrize("weight_needs_gradient", [True, False])
def test_second_order_gradient_through_inputs_and_outputs_is_right(function: Any, weight_needs_gradient: bool) -> None:
    call, inputs = kernel_call(function.apply), values(weight_needs_gradient=weight_needs_gradient)
    for _ in range(2):
        torch.testing.assert_close(second_order(call, *inputs), expected(*inputs))


def test_second_order_gradient_through_functions_in_a_row_is_right() -> None:
    """What the second saves is the first one's output: neither an input nor an output of the kernel, and known to autograd."""
    call, inputs = kernel_call(lambda x, weight: SavesInputs.apply(SavesOutput.apply(x, weight).sin(), weight)), values()
    reference = lambda x, weight: (x.exp() * weight).sin().exp() * weight  # noqa: E731
    torch.testing.assert_close(second_order(call, *inputs), second_order(reference, *inputs))


@pytest.mark.parametrize("function", [SavesComputed, Stashes, SavesAlias])
def test_second_order_gradient_through_something_computed_is_refused(function: Any) -> None:
    call, inputs = kernel_call(function.apply), values()
    for _ in range(2):
        with pytest.raises(KernelRuntimeError, match=REFUSED):
            second_order(call, *inputs)


def test_part_of_an_input_that_is_no_leaf_is_computed_as_well() -> None:
    call = kernel_call(SavesAlias.apply)
    with pytest.raises(KernelRuntimeError, match=REFUSED):
        second_order(lambda x, weight: call(x * 1, weight * 1), *values())


def test_inputs_that_are_views_and_no_leaves_are_known() -> None:
    call, inputs = kernel_call(SavesInputs.apply), values()
    found = second_order(lambda x, weight: call((x * 1).t().t(), weight[:]), *inputs)
    torch.testing.assert_close(found, expected(*inputs))


def test_function_deep_inside_a_kernel_is_found() -> None:
    call = kernel_call(lambda x, weight: (x + weight, SavesComputed.apply(x.sin(), weight).cos()), outputs=2)
    with pytest.raises(KernelRuntimeError, match=REFUSED):
        second_order(lambda *inputs: call(*inputs)[1], *values())


def test_gradient_that_only_passes_by_is_not_refused() -> None:
    """A kernel may return its input; a gradient that reaches it on another way is not the kernel's."""
    call = kernel_call(lambda x, weight: (x, SavesComputed.apply(x, weight)), outputs=2)

    def run(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        same, _ = call(x * 2, weight)
        return same.exp() * weight

    inputs = values()
    torch.testing.assert_close(second_order(run, *inputs), second_order(lambda x, weight: (x * 2).exp() * weight, *inputs))


def test_first_order_gradients_stay_as_they_are() -> None:
    call, inputs = kernel_call(SavesComputed.apply), values()
    wanted = torch.autograd.grad((inputs[0].exp() * inputs[1]).sum(), inputs)
    loss = copy.deepcopy(call)(*inputs).sum()
    for _ in range(2):
        torch.testing.assert_close(torch.autograd.grad(loss, inputs, retain_graph=True), wanted)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(torch.autograd.grad(call(*inputs).sum(), inputs)))
    thread.start()
    thread.join()
    torch.testing.assert_close(found[0], wanted)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_works_and_does_not_hide_what_is_saved(reentrant: bool) -> None:
    call, inputs = kernel_call(SavesComputed.apply), values()
    wanted = torch.autograd.grad((inputs[0].exp() * inputs[1]).sum(), inputs)
    for _ in range(2):
        x, weight = (value.detach().requires_grad_() for value in inputs)
        checkpoint(call, x, weight, use_reentrant=reentrant).sum().backward()
        torch.testing.assert_close((x.grad, weight.grad), wanted)
    if not reentrant:  # torch itself refuses create_graph there
        with pytest.raises(KernelRuntimeError, match=REFUSED):
            second_order(lambda *values: checkpoint(call, *values, use_reentrant=False), *inputs)


def test_kernel_that_was_checkpointed_first_is_refused_since_nobody_can_tell() -> None:
    call, inputs = kernel_call(SavesInputs.apply), values()
    checkpoint(call, *inputs, use_reentrant=False).sum().backward()
    with pytest.raises(KernelRuntimeError, match=REFUSED):
        second_order(call, *inputs)


def test_transforms_of_torch_func_take_the_first_gradient() -> None:
    call, inputs = kernel_call(SavesComputed.apply), values()
    found = torch.func.grad(lambda x, weight: call(x, weight).sum(), argnums=(0, 1))(*inputs)
    torch.testing.assert_close(found, torch.autograd.grad((inputs[0].exp() * inputs[1]).sum(), inputs))
