"""The kernel layers under ``tests/repositories`` compute what other tests take for granted."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from kernel_repositories import executions, repository, reset_executions
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fxkernels.target import Target

CPU = Target("cpu", None, "2.13", None, "linux", "x86_64")
TRAINABLE = ["RMSNorm", "CountedRMSNorm", "UntraceableRMSNorm"]


@pytest.fixture(autouse=True)
def fresh_counters() -> None:
    reset_executions("norms", "activations", "rotary")


@pytest.fixture
def layer() -> nn.Module:
    module = nn.Module()
    module.weight, module.variance_epsilon = nn.Parameter(1 + 0.1 * torch.randn(8)), 1e-6
    return module


def forward(name: str, layer_name: str):
    return repository(name, layer_name).load_for(CPU).cls.forward


def reference(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return layer.weight * F.rms_norm(x.float(), (8,), None, layer.variance_epsilon).to(x.dtype)


@pytest.mark.parametrize("layer_name", [*TRAINABLE, "InferenceRMSNorm", "DetachedRMSNorm", "Float32RMSNorm"])
def test_norms_compute_the_reference_and_are_counted(layer, layer_name):
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(forward("norms", layer_name)(layer, x), reference(layer, x))
    assert executions("norms") == {layer_name: 1}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layer_name", TRAINABLE)
def test_trainable_norms_have_the_references_gradients(layer, layer_name, dtype):
    layer.to(dtype)
    x = torch.randn(2, 3, 8, dtype=dtype, requires_grad=True)
    seed = torch.randn(2, 3, 8, dtype=dtype)
    ours = torch.autograd.grad(forward("norms", layer_name)(layer, x), (x, layer.weight), seed)
    theirs = torch.autograd.grad(reference(layer, x), (x, layer.weight), seed)
    torch.testing.assert_close(ours, theirs, rtol=2e-2 if dtype is torch.bfloat16 else 1e-5, atol=3e-2 if dtype is torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("layer_name", ["InferenceRMSNorm", "DetachedRMSNorm"])
def test_norms_without_a_backward_return_a_detached_output(layer, layer_name):
    assert not forward("norms", layer_name)(layer, torch.randn(2, 8, requires_grad=True)).requires_grad


def test_float32_norm_returns_float32_for_bfloat16(layer):
    layer.to(torch.bfloat16)
    assert forward("norms", "Float32RMSNorm")(layer, torch.randn(2, 8, dtype=torch.bfloat16)).dtype is torch.float32


def test_eps_norm_fails_on_llamas_layer(layer):
    with pytest.raises(AttributeError, match="eps"):
        forward("norms", "EpsRMSNorm")(layer, torch.randn(2, 8))


def on_fakes(layer_name: str, layer: nn.Module) -> torch.Tensor:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        weight = nn.Module()
        weight.weight, weight.variance_epsilon = mode.from_tensor(layer.weight), 1e-6
        return forward("norms", layer_name)(weight, torch.randn(2, 8))


def test_untraceable_norm_fails_on_fake_tensors(layer):
    with pytest.raises(RuntimeError):
        on_fakes("UntraceableRMSNorm", layer)


def test_raising_norm_raises_on_real_tensors_only(layer):
    assert on_fakes("RaisingRMSNorm", layer).shape == (2, 8)
    with pytest.raises(RuntimeError, match="out of shared memory"):
        forward("norms", "RaisingRMSNorm")(layer, torch.randn(2, 8))


@pytest.mark.parametrize("layer_name", ["RMSNorm", "CountedRMSNorm", "InferenceRMSNorm"])
def test_tracing_is_not_counted(layer, layer_name):
    on_fakes(layer_name, layer)
    assert not executions("norms")


def test_counted_norm_counts_executions_of_a_compiled_graph(layer):
    compiled = torch.compile(lambda x: forward_of_counted(layer, x), backend="aot_eager", fullgraph=True)
    forward_of_counted = forward("norms", "CountedRMSNorm")
    for _ in range(3):
        compiled(torch.randn(2, 8)).sum().backward()
    assert executions("norms") == {"CountedRMSNorm": 3, "CountedRMSNorm.backward": 3}


@pytest.mark.parametrize("layer_name", ["RMSNorm", "InferenceRMSNorm"])
def test_norms_can_be_compiled_in_one_graph(layer, layer_name):
    kernel = forward("norms", layer_name)
    x = torch.randn(2, 8)
    torch.testing.assert_close(torch.compile(kernel, backend="aot_eager", fullgraph=True)(layer, x), reference(layer, x))


@pytest.mark.parametrize(
    ("layer_name", "expected"),
    [
        ("SiLU", F.silu),
        ("GeLU", F.gelu),
        ("QuickGELU", lambda x: x * torch.sigmoid(1.702 * x)),
        ("SiluAndMul", lambda x: F.silu(x[..., :4]) * x[..., 4:]),
    ],
)
def test_activations_compute_the_reference_and_are_counted(layer_name, expected):
    x = torch.randn(2, 8)
    torch.testing.assert_close(forward("activations", layer_name)(nn.Module(), x), expected(x))
    assert executions("activations") == {layer_name: 1}


@pytest.mark.parametrize("layer_name", ["rotary_pos_emb", "InferenceRotary"])
@pytest.mark.parametrize("unsqueeze_dim", [1, 2])
def test_rotary_rotates_both_and_is_counted(layer_name, unsqueeze_dim):
    q, k = torch.randn(2, 3, 3, 8, requires_grad=True), torch.randn(2, 3, 3, 8)
    cos, sin = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    outputs = forward("rotary", layer_name)(nn.Module(), q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
    for x, output in zip((q, k), outputs, strict=True):
        half = torch.cat((-x[..., 4:], x[..., :4]), -1)
        torch.testing.assert_close(output.detach(), (x * cos.unsqueeze(unsqueeze_dim) + half * sin.unsqueeze(unsqueeze_dim)).detach())
    assert outputs[0].requires_grad == (layer_name == "rotary_pos_emb")
    assert executions("rotary") == {layer_name: 1}
