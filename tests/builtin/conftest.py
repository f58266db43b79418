"""One case per built-in layer: the kernel layer, the eager reference, the exact function and inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fxkernels import demo_model
from fxkernels.builtin import BUILTIN_LAYERS, builtin_repository
from fxkernels.target import Target

HALF_AND_SINGLE = [torch.float32, torch.bfloat16, torch.float16]
Function = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """The three functions take the same tensors and return a tuple; `exact` is for float64."""

    kernel: Function
    reference: Function
    exact: Function
    shapes: tuple[tuple[int, ...], ...]
    differentiable: int

    def tensors(self, dtype: torch.dtype, batch: int = 2) -> list[Tensor]:
        """Random inputs; the first `differentiable` require a gradient. Dimensions of size 2 in `shapes` are the batch."""
        tensors = [torch.randn([batch if size == 2 else size for size in shape]).to(dtype) for shape in self.shapes]
        return [tensor.requires_grad_(index < self.differentiable) for index, tensor in enumerate(tensors)]


@pytest.fixture(params=BUILTIN_LAYERS)
def case(request: pytest.FixtureRequest) -> Case:
    return {"RMSNorm": rms_norm, "SiluAndMul": silu_and_mul, "rotary_pos_emb": rotary}[request.param]()


@pytest.fixture(params=HALF_AND_SINGLE, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def kernel_class() -> Callable[[str], type[torch.nn.Module]]:
    return load


def load(layer_name: str) -> type[torch.nn.Module]:
    return builtin_repository(layer_name).load_for(Target.of_machine("cpu")).cls


def rms_norm() -> Case:
    kernel_class = load("RMSNorm")

    def with_weight(layer: torch.nn.Module) -> Function:
        def call(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
            return (torch.func.functional_call(layer, {"weight": weight}, (x,)),)

        return call

    reference = demo_model.RMSNorm(16)
    kernel = kernel_class()
    kernel.weight, kernel.variance_epsilon = reference.weight, reference.variance_epsilon

    def exact(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        return (weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),)

    return Case(with_weight(kernel), with_weight(reference), exact, ((2, 5, 16), (16,)), differentiable=2)


def silu_and_mul() -> Case:
    kernel, reference = load("SiluAndMul")(), demo_model.SiluAndMul()
    return Case(lambda x: (kernel(x),), lambda x: (reference(x),), lambda x: (reference(x),), ((2, 5, 16),), differentiable=1)


def rotary() -> Case:
    kernel, reference = load("rotary_pos_emb")(), demo_model.rotary_pos_emb
    return Case(kernel, reference, reference, ((2, 4, 5, 8), (2, 3, 5, 8), (2, 5, 8), (2, 5, 8)), differentiable=2)
