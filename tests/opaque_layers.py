"""Layers that the kernels of tests/repositories/opaque stand in for, and how to compare a compiled model with the same in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from kernel_repositories import repository
from torch import nn

from fxkernels import use_kernel_forward_from_hub
from fxkernels.backend import HubKernels, hubkernels
from fxkernels.kernels.lowering.lowering import Lowering


@use_kernel_forward_from_hub("Norm")
class Norm(nn.Module):
    def __init__(self, size: int = 8, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


@use_kernel_forward_from_hub("Scale")
class Scale(nn.Module):
    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


@use_kernel_forward_from_hub("Identity")
class Identity(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 1


@use_kernel_forward_from_hub("Doubled")
class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


@use_kernel_forward_from_hub("Plus")
class Plus(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


@use_kernel_forward_from_hub("Halves")
class Halves(nn.Module):
    def forward(self, x: torch.Tensor, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        return x * scale, x + scale


@use_kernel_forward_from_hub("Gather")
class Gather(nn.Module):
    def forward(
        self, x: torch.Tensor, index: torch.Tensor, mask: torch.Tensor, sizes: Any = None, flag: bool = True
    ) -> dict[str, torch.Tensor]:
        return {"rows": x[index] * mask[:, None] * (2 if flag else 1), "index": index + 1}


@use_kernel_forward_from_hub("Product")
class Product(nn.Module):
    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


class Around(nn.Module):
    """A layer between linear ones, so that its input and output are values of the graph."""

    def __init__(self, layer: nn.Module, size: int = 8) -> None:
        super().__init__()
        self.before, self.layer, self.after = nn.Linear(size, size), layer, nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.before(x)
        return self.after(self.layer(hidden)) + hidden


def backend(layer_name: str, kernel: str, inner: Any = "aot_eager", **options: Any) -> HubKernels:
    """Return a backend that maps one layer to one kernel of the repository."""
    return hubkernels(inner=inner, mapping={layer_name: {"cpu": repository("opaque", kernel)}}, **options)


def lowering(backend: HubKernels) -> Lowering:
    """Return how the newest graph runs the one layer call of a model."""
    (call,) = backend.report.calls
    assert call.status == "rewritten", call.miss
    found = call.decisions[-1].lowering
    assert found is not None
    return found


def results(model: Callable[..., torch.Tensor], x: torch.Tensor, parameters: list[torch.Tensor]) -> tuple[torch.Tensor, list[Any]]:
    """Return output and gradients of a scalar of it, for the input (if it needs one) and the parameters that need one."""
    output = model(x)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    wanted = [tensor for tensor in (x, *parameters) if tensor.requires_grad]
    return output.detach(), list(torch.autograd.grad((output * weights).sum(), wanted))


def assert_equals_float64(model: nn.Module, run: Callable[..., torch.Tensor], x: torch.Tensor, **tolerance: float) -> None:
    """Compare a compiled model, forward and backward, with the model itself in float64."""
    exact = copy.deepcopy(model).double()
    expected, expected_gradients = results(exact, x.detach().double().requires_grad_(x.requires_grad), list(exact.parameters()))
    output, gradients = results(run, x, list(model.parameters()))
    tolerance = tolerance or {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(output.double(), expected, **tolerance)
    for found, gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found.double(), gradient, **tolerance)
