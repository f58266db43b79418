"""A correct kernel is never refused, whatever the dtypes, layouts and sizes of the call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_repositories import repository
from probe_cases import probe_case_for

from fxkernels.admission.probe import probe
from fxkernels.admission.probe_case import ProbeCase
from fxkernels.builtin import builtin_repository
from fxkernels.kernels.layer import KernelLayer, load_kernel_layer
from fxkernels.target import Target

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # hundreds of probes in each test

TARGET = Target.of_machine("cpu")


def llama_norm(dtype: torch.dtype, eps: float) -> Callable[..., Any]:
    def norm(x, weight):
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        return weight * wide.to(dtype)

    return norm


def late_rounding_norm(dtype: torch.dtype, eps: float) -> Callable[..., Any]:
    """Multiplies first and rounds then: another order of roundings, the same function."""

    def norm(x, weight):
        wide = x.float()
        return (weight.float() * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps))).to(dtype)

    return norm


def rotate_half(x, size):
    return torch.cat((-x[..., size // 2 :], x[..., : size // 2]), -1)


def rotary(size: int) -> Callable[..., Any]:
    def embed(q, k, cos, sin, unsqueeze_dim):
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return q * cos + rotate_half(q, size) * sin, k * cos + rotate_half(k, size) * sin

    return embed


def silu_and_mul(size: int) -> Callable[..., Any]:
    return lambda x: F.silu(x[..., : size // 2]) * x[..., size // 2 :]


NORMS = [
    ("builtin", "RMSNorm"),
    ("norms", "RMSNorm"),
    ("norms", "CountedRMSNorm"),
    ("norms", "UntraceableRMSNorm"),
    ("norms", "InferenceRMSNorm"),
    ("hazard-twins", "RMSNorm"),
]
ROTARIES = [("builtin", "rotary_pos_emb"), ("rotary", "rotary_pos_emb"), ("rotary", "InferenceRotary"), ("hazard-twins", "rotary_pos_emb")]
ACTIVATIONS = [("builtin", "SiluAndMul"), ("activations", "SiluAndMul")]
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


def load(name: str, layer: str) -> KernelLayer:
    return load_kernel_layer(builtin_repository(layer) if name == "builtin" else repository(name, layer), TARGET)


@dataclass(frozen=True)
class Layouts:
    """Draws tensors in the layouts of real models."""

    draw: Callable[..., Any]
    dtype: torch.dtype

    def tensor(self, *sizes: int, layouts: str) -> torch.Tensor:
        layout = self.draw(st.sampled_from(layouts.split()))
        if layout == "transposed" and len(sizes) > 2:
            first, second, *rest = sizes
            found = torch.empty(second, first, *rest).transpose(0, 1)
        elif layout == "gaps":
            found = torch.empty(*sizes[:-1], 2 * sizes[-1])[..., : sizes[-1]]
        elif layout == "expanded" and len(sizes) > 1:
            found = torch.empty(1, *sizes[1:]).expand(*sizes)
        elif layout == "offset":
            found = torch.empty(sizes[0] + 1, *sizes[1:])[1:]
        else:
            found = torch.empty(*sizes)
        # A copy in another dtype keeps no gaps, so the layout is made anew.
        spec = torch.empty_strided(found.shape, found.stride(), dtype=self.dtype)
        return spec.requires_grad_(self.draw(st.booleans()))


@st.composite
def norm_probe_cases(draw: Callable[..., Any]) -> ProbeCase:
    dtype, kernel = draw(DTYPES), load(*draw(st.sampled_from(NORMS)))
    size = draw(st.sampled_from([1, 2, 3, 8, 17, 64, 128, 1000]))
    sizes = draw(st.lists(st.sampled_from([1, 2, 3, 7, 16]), min_size=1, max_size=3))
    weight_dtype = draw(st.sampled_from([dtype, torch.float32])) if kernel.identity.repository == "rmsnorm" else dtype
    weight = torch.empty(size, dtype=weight_dtype).requires_grad_(draw(st.booleans()))
    eps = draw(st.sampled_from([1e-6, 1e-5]))
    body = draw(st.sampled_from([llama_norm, late_rounding_norm])) if weight_dtype is dtype else llama_norm
    # torch's own rms_norm, in InferenceRMSNorm, returns a dense output where the layer's is laid out as its input is.
    layouts = "dense gaps expanded offset" if kernel.identity.layer == "InferenceRMSNorm" else "dense transposed gaps expanded offset"
    x = Layouts(draw, dtype).tensor(*sizes, size, layouts=layouts)
    gradient = draw(st.booleans())
    return probe_case_for(kernel, body(dtype, eps), [x], {"weight": weight}, {"variance_epsilon": eps}, gradient=gradient)


@st.composite
def rotary_probe_cases(draw: Callable[..., Any]) -> ProbeCase:
    dtype, kernel = draw(DTYPES), load(*draw(st.sampled_from(ROTARIES)))
    batch, heads, groups, length, size = (draw(st.sampled_from(choices)) for choices in ([1, 2], [1, 4], [1, 2], [1, 5, 16], [2, 8, 64]))
    layouts = Layouts(draw, dtype)
    cos, sin = (torch.empty(batch, length, size, dtype=dtype) for _ in range(2))
    unsqueeze_dim = draw(st.sampled_from([1, 2]))
    kinds = draw(st.sampled_from(["dense", "heads", "fused"]))
    if kinds == "fused":
        fused = torch.empty(batch, length, (heads + 2 * groups) * size, dtype=dtype).requires_grad_(draw(st.booleans()))
        q = fused[..., : heads * size].unflatten(-1, (heads, size))
        k = fused[..., heads * size : (heads + groups) * size].unflatten(-1, (groups, size))
        q, k = (q.transpose(1, 2), k.transpose(1, 2)) if unsqueeze_dim == 1 else (q, k)
    else:
        q, k = (_heads(layouts, draw, batch, count, length, size, unsqueeze_dim, kinds) for count in (heads, groups))
    return probe_case_for(kernel, rotary(size), [q, k, cos, sin, unsqueeze_dim], gradient=draw(st.booleans()))


def _heads(layouts, draw, batch, heads, length, size, unsqueeze_dim, kind):
    sizes = (batch, length, heads, size) if unsqueeze_dim == 2 or kind == "heads" else (batch, heads, length, size)
    tensor = torch.empty(sizes, dtype=layouts.dtype).requires_grad_(draw(st.booleans()))
    return tensor.transpose(1, 2) if unsqueeze_dim == 1 and kind == "heads" else tensor


@st.composite
def activation_cases(draw: Callable[..., Any]) -> ProbeCase:
    dtype, kernel = draw(DTYPES), load(*draw(st.sampled_from(ACTIVATIONS)))
    size = draw(st.sampled_from([2, 6, 32, 258]))
    sizes = draw(st.lists(st.sampled_from([1, 2, 5]), min_size=1, max_size=3))
    x = Layouts(draw, dtype).tensor(*sizes, size, layouts="dense transposed offset")
    return probe_case_for(kernel, silu_and_mul(size), [x], gradient=draw(st.booleans()))


def quickly(examples: int):
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@quickly(240)
@given(norm_probe_cases())
def test_a_correct_norm_is_admitted(case: ProbeCase) -> None:
    verdict = probe(case)
    assert verdict.result == "admitted", verdict


@quickly(180)
@given(rotary_probe_cases())
def test_a_correct_rotary_embedding_is_admitted(case: ProbeCase) -> None:
    verdict = probe(case)
    assert verdict.result == "admitted", verdict


@quickly(120)
@given(activation_cases())
def test_a_correct_activation_is_admitted(case: ProbeCase) -> None:
    verdict = probe(case)
    assert verdict.result == "admitted", verdict


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_correct_norm_of_many_rows_is_admitted(dtype: torch.dtype) -> None:
    x, weight = torch.empty(8192, 64, dtype=dtype).requires_grad_(), torch.empty(64, dtype=dtype).requires_grad_()
    verdict = probe(
        probe_case_for(load("builtin", "RMSNorm"), llama_norm(dtype, 1e-6), [x], {"weight": weight}, {"variance_epsilon": 1e-6})
    )
    assert verdict.result == "admitted", verdict
