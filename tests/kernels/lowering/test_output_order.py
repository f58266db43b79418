"""The order in which an output's dimensions lie in memory, and kernels whose outputs lie there in another way than the layer's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv, StatelessSymbolicContext

from fxkernels import hubkernels, kernelize, use_kernel_forward_from_hub
from fxkernels.kernels.lowering.output_order import laid_out, order_of


@use_kernel_forward_from_hub("Heads")
class Heads(nn.Module):
    """Scores per head, computed in another order than they are returned in: a transposed view."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.transpose(1, 2).contiguous() * self.weight).transpose(1, 2)


class Dense(nn.Module):
    """The same, contiguous."""

    weight: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weight).contiguous()


class Pointers(torch.autograd.Function):
    """Its backward takes the strides of its output for those of the incoming gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, weight = ctx.saved_tensors
        gradient = gradient.as_strided(x.shape, x.stride())
        return gradient * weight, (gradient * x).sum((0, 1, 2))


class DensePointers(nn.Module):
    """The same as `Dense`, and its backward reads the memory that lies behind the gradient."""

    weight: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = Pointers.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return output


class Wrong(nn.Module):
    """Another function, contiguous."""

    weight: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.weight).contiguous()


class Model(nn.Module):
    """Reads the layer's output in a way that only its layout permits."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = Heads()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.heads(x).transpose(1, 2).view(x.shape[0], -1) * 2


class Repository:
    def __init__(self, layer: type[nn.Module]) -> None:
        self.layer = layer

    def load(self) -> type[nn.Module]:
        return self.layer


def mapping(layer: type[nn.Module] = Dense) -> Any:
    return {"Heads": {"cpu": Repository(layer)}}


def x(requires_grad: bool = False) -> torch.Tensor:
    return torch.randn(2, 5, 3, 8, requires_grad=requires_grad)


@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("verify", ["off", "probe"])
def test_a_kernel_with_another_layout_is_used_and_its_output_has_the_layers(inner: str, dynamic: bool, verify: Any) -> None:
    model, backend = Model(), hubkernels(inner=inner, mapping=mapping(), verify=verify)
    run = torch.compile(model, backend=backend, fullgraph=True, dynamic=dynamic)
    given = x(requires_grad=True)
    output = run(given)
    torch.testing.assert_close(output, model(given))
    found = torch.autograd.grad(output.square().sum(), [given, *model.parameters()])
    wanted = torch.autograd.grad(model(given).square().sum(), [given, *model.parameters()])
    torch.testing.assert_close(found, wanted)
    (call,) = backend.report.calls
    assert call.status == "rewritten", str(backend.report)
    if inner != "eager":
        assert "copies output 0 into the layer's memory layout" in " ".join(str(backend.report).split())
    if verify == "probe":
        assert call.decisions[-1].evidence is not None
        assert "has other strides than the layer's, and is copied" in call.decisions[-1].evidence.reason


@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_the_gradient_reaches_a_kernel_in_the_layout_of_its_own_output(inner: str) -> None:
    model, given = Model(), x(requires_grad=True)
    backend = hubkernels(inner=inner, mapping=mapping(DensePointers))
    run = torch.compile(model, backend=backend, fullgraph=True)
    weights = torch.randn_like(model(given))
    found = torch.autograd.grad((run(given) * weights).sum(), [given, *model.parameters()])
    wanted = torch.autograd.grad((model(given) * weights).sum(), [given, *model.parameters()])
    torch.testing.assert_close(found, wanted)
    assert {call.status for call in backend.report.calls} == {"rewritten"}


def test_kernelize_gives_its_output_the_layers_layout_too() -> None:
    model, given = Model(), x()
    copied = kernelize(model, mapping=mapping())
    torch.testing.assert_close(copied(given), model(given))
    assert {call.status for call in copied.report.calls} == {"rewritten"}


def test_a_wrong_kernel_is_not_let_in_for_its_layout() -> None:
    backend = hubkernels(inner="eager", mapping=mapping(Wrong), verify="probe")
    model, given = Model(), x()
    torch.testing.assert_close(torch.compile(model, backend=backend)(given), model(given))
    assert backend.report.calls[0].miss is not None
    assert backend.report.calls[0].miss.code == "numerics"


@pytest.mark.parametrize(
    ("tensor", "order"),
    [
        (torch.empty(2, 3, 4), (0, 1, 2)),
        (torch.empty(2, 3, 4).transpose(0, 2), (2, 1, 0)),
        (torch.empty(2, 3, 4).permute(1, 2, 0), (2, 0, 1)),
        (torch.empty(()), ()),
        (torch.empty(3, 8)[:, :4], None),
        (torch.empty(1, 4).expand(3, 4), None),
        (torch.empty(3, 8)[::2], None),
    ],
)
def test_the_order_of_a_tensors_dimensions(tensor: torch.Tensor, order: Any) -> None:
    assert order_of(tensor) == order


def test_a_dimension_of_one_element_lies_anywhere() -> None:
    tensor = torch.empty(2, 1, 4).transpose(0, 2).as_strided((4, 1, 2), (1, 77, 4))
    order = order_of(tensor)
    assert order is not None
    torch.testing.assert_close(laid_out(tensor.contiguous(), order).stride(0), 1)


def test_symbolic_sizes_are_compared_without_a_guard() -> None:
    mode = FakeTensorMode(shape_env=ShapeEnv())
    fake = mode.from_tensor(torch.empty(5, 6, 7), symbolic_context=StatelessSymbolicContext(dynamic_sizes=[_dynamic()] * 3))
    with mode:
        swapped = fake.transpose(0, 2)
    before = len(mode.shape_env.guards)
    assert order_of(swapped) == (2, 1, 0)
    assert len(mode.shape_env.guards) == before


def _dynamic() -> Any:
    from torch.fx.experimental.symbolic_shapes import DimDynamic

    return DimDynamic.DYNAMIC


def test_a_tensor_that_lies_right_is_not_copied() -> None:
    tensor = torch.randn(2, 3, 4).permute(1, 2, 0)
    order = order_of(tensor)
    assert order is not None
    assert laid_out(tensor, order).data_ptr() == tensor.data_ptr()
    other = laid_out(tensor.contiguous(), order)
    assert other.stride() == tensor.stride()
    torch.testing.assert_close(other, tensor)
