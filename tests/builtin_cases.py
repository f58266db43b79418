"""The built-in Triton kernels beside what they stand in for: for each one an annotated layer, inputs for it, and the comparison of the two.

A layer in float64 computes in float64, so that a copy of it in that dtype is the exact reference.

Example:
    >>> check(CASES["RMSNorm"], torch.bfloat16, rows=33, size=130)
"""

from __future__ import annotations

import copy
import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernel_repositories import UNIVERSAL
from torch import Tensor, nn

from fxkernels import use_kernel_forward_from_hub
from fxkernels.builtin import builtin_repository
from fxkernels.hub import LocalLayerRepository
from fxkernels.target import Target


def wide(x: Tensor) -> Tensor:
    """In float32, or in float64 if it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def normalized(x: Tensor, eps: float) -> Tensor:
    """Of root mean square one, not rounded."""
    return wide(x) * torch.rsqrt(wide(x).pow(2).mean(-1, keepdim=True) + eps)


# --- the layers, as models have them -----------------------------------------------------------------------------------------------------


class Norm(nn.Module):
    def __init__(self, size: int, activation: str = "silu") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size))
        self.variance_epsilon = self.eps = 1e-6
        self.activation = activation


@use_kernel_forward_from_hub("RMSNorm")
class LlamaNorm(Norm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.weight * normalized(hidden_states, self.variance_epsilon).to(hidden_states.dtype)


@use_kernel_forward_from_hub("RMSNormRoundedLast")
class OlmoNorm(Norm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return (self.weight * normalized(hidden_states, self.variance_epsilon)).to(hidden_states.dtype)


@use_kernel_forward_from_hub("RMSNormZeroCentered")
class QwenNorm(Norm):
    def forward(self, x: Tensor) -> Tensor:
        return (normalized(x, self.eps) * (1.0 + wide(self.weight))).type_as(x)


@use_kernel_forward_from_hub("RMSNormGated")
class GatedNorm(Norm):
    def forward(self, hidden_states: Tensor, gate: Tensor) -> Tensor:
        scaled = self.weight * normalized(hidden_states, self.variance_epsilon).to(hidden_states.dtype)
        activated = F.silu(wide(gate)) if self.activation == "silu" else torch.sigmoid(wide(gate))
        return (scaled * activated).to(hidden_states.dtype)


@use_kernel_forward_from_hub("LayerNorm")
class LayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


@use_kernel_forward_from_hub("add_rms_norm")
class AddRMSNorm(nn.Module):
    def forward(
        self, hidden_states: Tensor, residual: Tensor, weight: Tensor | None = None, eps: float | None = None, offset: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        assert weight is not None
        assert eps is not None
        residual = residual + hidden_states
        return (normalized(residual, eps) * (wide(weight) + offset)).to(residual.dtype), residual


@use_kernel_forward_from_hub("add_layer_norm")
class AddLayerNorm(nn.Module):
    def forward(
        self,
        hidden_states: Tensor,
        residual: Tensor,
        normalized_shape: tuple[int, ...],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> tuple[Tensor, Tensor]:
        residual = residual + hidden_states
        return F.layer_norm(residual, normalized_shape, weight, bias, eps), residual


@use_kernel_forward_from_hub("norm_modulate")
class NormModulate(nn.Module):
    def forward(
        self,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        normalized_shape: tuple[int, ...],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        return F.layer_norm(x, normalized_shape, weight, bias, eps) * (1 + scale) + shift


def activation(layer_name: str, function: Callable[[Tensor], Tensor]) -> Callable[[int], nn.Module]:
    """A layer that applies a function."""

    class Activation(nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            return function(input)

    annotated = use_kernel_forward_from_hub(layer_name)(Activation)
    return lambda _: annotated()


def gated(layer_name: str, function: Callable[[Tensor], Tensor]) -> Callable[[int], nn.Module]:
    """A layer that applies a function to one half, and multiplies with the other."""

    class Gated(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            half = x.shape[-1] // 2
            return function(x[..., :half]) * x[..., half:]

    annotated = use_kernel_forward_from_hub(layer_name)(Gated)
    return lambda _: annotated()


def rotary(layer_name: str, swap: Callable[[Tensor], Tensor], *, in_dtype: bool = False) -> Callable[[int], nn.Module]:
    """A layer that turns queries and keys by full tables."""

    class Rotary(nn.Module):
        def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
            cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
            turned = [x * cos + swap(x) * sin for x in (q, k)]
            return tuple(y.to(q.dtype) if in_dtype else y for y in turned)

    annotated = use_kernel_forward_from_hub(layer_name)(Rotary)
    return lambda _: annotated()


@use_kernel_forward_from_hub("qk_norm_rotary")
class QKNormRotary(nn.Module):
    def forward(
        self,
        query: Tensor,
        key: Tensor,
        query_weight: Tensor,
        key_weight: Tensor,
        cos: Tensor,
        sin: Tensor,
        query_eps: float = 1e-6,
        key_eps: float = 1e-6,
        offset: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        query = (normalized(query, query_eps) * (wide(query_weight) + offset)).to(query.dtype).transpose(1, 2)
        key = (normalized(key, key_eps) * (wide(key_weight) + offset)).to(key.dtype).transpose(1, 2)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        return query * cos + _half_split(query) * sin, key * cos + _half_split(key) * sin


@use_kernel_forward_from_hub("rotary_pos_emb")
class HalfRotary(nn.Module):
    """As gpt-oss has it, with tables for one half of a head."""

    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)

        def turned(x: Tensor) -> Tensor:
            a, b = x.chunk(2, dim=-1)
            return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

        return turned(q), turned(k)


@use_kernel_forward_from_hub("LinearCrossEntropyLoss")
class LinearLoss(nn.Module):
    """The attributes of torch's class of that name, which torch 2.11 lacks."""

    weight: None

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, 3 * size)
        self.register_buffer("weight", None)
        self.reduction, self.ignore_index, self.label_smoothing = "mean", -100, 0.0

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        loss = F.cross_entropy(wide(self.linear(input)), target, ignore_index=self.ignore_index, reduction=self.reduction)
        return loss.to(input.dtype)


@use_kernel_forward_from_hub("ForCausalLMLoss")
class CausalLoss(nn.Module):
    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        vocab_size: int,
        num_items_in_batch: Tensor | None = None,
        ignore_index: int = -100,
        shift_labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        shifted = F.pad(labels, (0, 1), value=ignore_index)[..., 1:]
        return F.cross_entropy(wide(logits).view(-1, vocab_size), shifted.reshape(-1), ignore_index=ignore_index)


@use_kernel_forward_from_hub("causal_conv1d_fn")
class CausalConv(nn.Module):
    def forward(
        self, hidden_states: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, **kwargs: Any
    ) -> Tensor:
        length, padding = hidden_states.shape[-1], weight.shape[-1] - 1
        out = F.conv1d(hidden_states, weight.unsqueeze(1), bias, padding=padding, groups=hidden_states.shape[1])[:, :, :length]
        return F.silu(out) if activation is not None else out


# --- what they are called with -----------------------------------------------------------------------------------------------------------


def rows_of(number: int = 1, factor: int = 1) -> Callable[[int, int], list[Any]]:
    """So many tensors of rows, `factor` times as long."""
    return lambda rows, size: [torch.randn(rows, factor * size) for _ in range(number)]


def sum_and_layer_norm(rows: int, size: int) -> list[Any]:
    """Two tensors of rows, and the arguments of their norm."""
    return [torch.randn(rows, size), torch.randn(rows, size), (size,), torch.randn(size), torch.randn(size)]


def sum_and_rms_norm(rows: int, size: int) -> list[Any]:
    """Two tensors of rows, and the arguments of their norm."""
    return [torch.randn(rows, size), torch.randn(rows, size), torch.randn(size), 1e-6, 1.0]


def modulated_rows(rows: int, size: int) -> list[Any]:
    """Two sequences of rows, and a scale and a shift for each."""
    return [torch.randn(2, rows, size), torch.randn(2, 1, size), torch.randn(2, 1, size), (size,)]


def heads_and_tables(table: int = 2, unsqueeze_dim: int = 1) -> Callable[[int, int], list[Any]]:
    """Queries and keys of two sequences, and tables of so many halves of a head."""

    def make(rows: int, size: int) -> list[Any]:
        size += size % 2
        heads = [torch.randn(2, rows, count, size) for count in (4, 3)]
        heads = [x.transpose(1, 2) for x in heads] if unsqueeze_dim == 1 else heads
        return [*heads, *(torch.randn(2, rows, size // 2 * table) for _ in range(2)), unsqueeze_dim]

    return make


def normed_heads_and_tables(rows: int, size: int) -> list[Any]:
    """Queries and keys of two sequences, the weights of their norms, full tables, and constants."""
    size += size % 2
    heads = [torch.randn(2, rows, count, size) for count in (4, 3)]
    return [*heads, torch.randn(size), torch.randn(size), torch.randn(2, rows, size), torch.randn(2, rows, size), 1e-6, 1e-6, 1.0]


def hidden_and_targets(rows: int, size: int) -> list[Any]:
    targets = torch.randint(3 * size, (rows,))
    if rows > 1:  # else there would be no loss
        targets[rows // 2] = -100
    return [torch.randn(rows, size), targets]


def logits_and_labels(rows: int, size: int) -> list[Any]:
    labels = torch.randint(size, (2, rows + 1))
    labels[0, rows // 2] = -100
    return [torch.randn(2, rows + 1, size), labels, size]


def sequences(silu: bool) -> Callable[[int, int], list[Any]]:
    """Two sequences whose channels are dense in memory, weights of width four, a bias."""
    arguments = ["silu"] if silu else [None]
    return lambda rows, size: [torch.randn(2, rows, size).transpose(1, 2), torch.randn(size, 4), torch.randn(size), *arguments]


# --- the cases ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A kernel layer, the layer that it stands in for, and arguments of it.

    Args:
        layer_name: Of both.
        layer: Makes the layer for a size.
        arguments: Makes arguments for a number of rows and a size: tensors in float32, which are converted, whole numbers and constants.
        differentiable: How many of the first tensors require a gradient.
    """

    layer_name: str
    layer: Callable[[int], nn.Module]
    arguments: Callable[[int, int], list[Any]]
    differentiable: int = 1


def _half_split(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((-b, a), dim=-1)


def _interleaved(x: Tensor) -> Tensor:
    return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)


def _tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _new(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * torch.pow(x, 3.0))))


def _fast(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def _quick(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


CASES: dict[str, Case] = {
    "RMSNorm": Case("RMSNorm", LlamaNorm, rows_of()),
    "RMSNorm rounded last": Case("RMSNormRoundedLast", OlmoNorm, rows_of()),
    "RMSNorm zero-centred": Case("RMSNormZeroCentered", QwenNorm, rows_of()),
    "RMSNorm gated by SiLU": Case("RMSNormGated", GatedNorm, rows_of(2), 2),
    "RMSNorm gated by sigmoid": Case("RMSNormGated", lambda size: GatedNorm(size, "sigmoid"), rows_of(2), 2),
    "sum and RMSNorm": Case("add_rms_norm", lambda _: AddRMSNorm(), sum_and_rms_norm, 3),
    "LayerNorm": Case("LayerNorm", LayerNorm, rows_of()),
    "sum and LayerNorm": Case("add_layer_norm", lambda _: AddLayerNorm(), sum_and_layer_norm, 5),
    "modulated LayerNorm": Case("norm_modulate", lambda _: NormModulate(), modulated_rows, 3),
    "SiluAndMul": Case("SiluAndMul", gated("SiluAndMul", F.silu), rows_of(factor=2)),
    "GeluAndMul": Case("GeluAndMul", gated("GeluAndMul", F.gelu), rows_of(factor=2)),
    "GeluTanhAndMul": Case("GeluTanhAndMul", gated("GeluTanhAndMul", _tanh), rows_of(factor=2)),
    "SiLU": Case("SiLU", activation("SiLU", F.silu), rows_of()),
    "GeLU": Case("GeLU", activation("GeLU", F.gelu), rows_of()),
    "GeluTanh": Case("GeluTanh", activation("GeluTanh", _tanh), rows_of()),
    "NewGELU": Case("NewGELU", activation("NewGELU", _new), rows_of()),
    "FastGELU": Case("FastGELU", activation("FastGELU", _fast), rows_of()),
    "QuickGELU": Case("QuickGELU", activation("QuickGELU", _quick), rows_of()),
    "rotary": Case("rotary_pos_emb", rotary("rotary_pos_emb", _half_split), heads_and_tables(), 2),
    "rotary, heads last": Case("rotary_pos_emb", rotary("rotary_pos_emb", _half_split), heads_and_tables(unsqueeze_dim=2), 2),
    "rotary, half tables": Case("rotary_pos_emb", lambda _: HalfRotary(), heads_and_tables(table=1), 2),
    "rotary, in dtype": Case(
        "rotary_pos_emb_in_dtype", rotary("rotary_pos_emb_in_dtype", _half_split, in_dtype=True), heads_and_tables(), 2
    ),
    "rotary, interleaved": Case("rotary_pos_emb_interleaved", rotary("rotary_pos_emb_interleaved", _interleaved), heads_and_tables(), 2),
    "norms of heads and rotary": Case("qk_norm_rotary", lambda _: QKNormRotary(), normed_heads_and_tables, 4),
    "linear cross entropy": Case("LinearCrossEntropyLoss", LinearLoss, hidden_and_targets),
    "cross entropy": Case("ForCausalLMLoss", lambda _: CausalLoss(), logits_and_labels),
    "causal convolution": Case("causal_conv1d_fn", lambda _: CausalConv(), sequences(silu=False), 3),
    "causal convolution, SiLU": Case("causal_conv1d_fn", lambda _: CausalConv(), sequences(silu=True), 3),
}


# --- the kernels -------------------------------------------------------------------------------------------------------------------------


def triton_repository(layer_name: str, device: str = "cpu") -> LocalLayerRepository:
    """The repository of a kernel; for the CPU (Triton's interpreter, or to be traced) a copy whose CUDA build is one for any device."""
    repository = builtin_repository(layer_name)
    return repository if device == "cuda" else LocalLayerRepository(_universal(repository.path), layer_name=layer_name)


@functools.cache
def _universal(path: Path) -> Path:
    copied = Path(tempfile.mkdtemp(prefix="fxkernels-builtin-")) / path.name
    build = copied / "build" / UNIVERSAL
    shutil.copytree(path / "build" / "torch-cuda", build, ignore=shutil.ignore_patterns("__pycache__"))
    metadata = json.loads((build / "metadata.json").read_text())
    (build / "metadata.json").write_text(json.dumps(metadata | {"id": metadata["id"] + "_copy"}))  # the original may be loaded too
    return copied


def kernel_of(case: Case, device: str = "cpu") -> Callable[..., Any]:
    """The forward of a kernel, whose first argument is the layer that it stands in for."""
    return triton_repository(case.layer_name, device).load_for(Target.of_machine(device)).cls.forward


def prepared(case: Case, dtype: torch.dtype, rows: int, size: int, device: str = "cpu", gaps: bool = False) -> tuple[nn.Module, list[Any]]:
    """A layer and arguments; with `gaps` there is something between any two values of the first one."""
    torch.manual_seed(0)
    with torch.device(device):
        layer, arguments = case.layer(size).to(dtype), case.arguments(rows, size)
    for n, value in enumerate(arguments):
        if isinstance(value, Tensor):
            value = value.to(dtype) if value.is_floating_point() else value
            if gaps and n == 0:
                value = torch.stack((value, torch.full_like(value, 7)), -1)[..., 0]
            arguments[n] = value.requires_grad_(n < case.differentiable)
    return layer, arguments


def step(
    run: Callable[..., Any], layer: nn.Module, arguments: list[Any], weights: list[Tensor] | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients of inputs and parameters, and the incoming gradients."""
    outputs = run(*arguments)
    outputs = [*outputs] if isinstance(outputs, tuple) else [outputs]
    weights = [torch.randn_like(y) for y in outputs] if weights is None else [w.to(y.dtype) for w, y in zip(weights, outputs, strict=True)]
    inputs = [value for value in (*arguments, *layer.parameters()) if isinstance(value, Tensor) and value.requires_grad]
    return [*(y.detach() for y in outputs), *torch.autograd.grad(outputs, inputs, weights)], weights


def exact(layer: nn.Module, arguments: list[Any]) -> tuple[nn.Module, list[Any]]:
    """Both in float64."""
    found = []
    for value in arguments:
        if isinstance(value, Tensor) and value.is_floating_point():
            value = value.detach().double().requires_grad_(value.requires_grad)
        found.append(value)
    return copy.deepcopy(layer).double(), found


def check(
    case: Case,
    dtype: torch.dtype,
    *,
    rows: int,
    size: int,
    device: str = "cpu",
    gaps: bool = False,
    kernel: Callable[..., Any] | None = None,
) -> None:
    """Assert that a kernel's outputs and gradients are no further from the exact ones than the layer's own, and described alike."""
    layer, arguments = prepared(case, dtype, rows, size, device, gaps)
    kernel = kernel_of(case, device) if kernel is None else kernel
    found, weights = step(functools.partial(kernel, layer), layer, arguments)
    own, _ = step(layer, layer, arguments, weights)
    precise, wanted_for = exact(layer, arguments)
    wanted, _ = step(precise, precise, wanted_for, [w.double() for w in weights])
    # What is rounded once is at most half an eps away. A sum of n terms in float32 depends on their order by more, on either side. And
    # Triton's interpreter does not round to bfloat16, it cuts (3.7).
    cut = dtype is torch.bfloat16 and device == "cpu"
    rounding = torch.finfo(dtype).eps * (16 if dtype is torch.float32 else 1.1 if cut else 0.5)
    for number, (mine, theirs, true) in enumerate(zip(found, own, wanted, strict=True)):
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype), number
        norm = true.norm().item()
        errors = [(x.double() - true).norm().item() / max(norm, 1e-30) for x in (mine, theirs)]
        assert errors[0] <= max(1.05 * errors[1], rounding), (number, errors)
    outputs = len(weights)
    assert strides(found[:outputs]) == strides(own[:outputs])


def strides(tensors: list[Tensor]) -> list[list[int]]:
    """Those of dimensions that are longer than one; the others are never used."""
    return [[step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1] for tensor in tensors]


def skip_slices(name: str, rows: int) -> None:
    """Of one position, the layer returns a slice of a padded output, whose strides no kernel has: such a call is a miss."""
    if name == "causal convolution" and rows == 1:
        pytest.skip("the layer's output has the strides of a longer one")
