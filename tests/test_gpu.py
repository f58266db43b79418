"""What only an accelerator shows. Run with `-m gpu` on a machine that has one."""

from __future__ import annotations

import pytest
import torch
from kernel_repositories import executions, repository, reset_executions
from layers import Stack, gradients

from fxkernels import CUDAProperties, Device, hubkernels, kernelize

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning"),  # torch's own warm-up of its graph pool does that
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),  # Inductor's advice, not about us
]


@pytest.fixture(autouse=True)
def fresh_counters() -> None:
    reset_executions("norms")


def mapping(layer_name="CountedRMSNorm", device="cuda"):
    return {"RMSNorm": {device: repository("norms", layer_name)}}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inner", ["eager", "inductor"])
def test_kernels_run_on_the_device_with_the_models_values_and_gradients(dtype, inner):
    model, x = Stack().to("cuda", dtype), torch.randn(3, 8, device="cuda", dtype=dtype)
    expected, expected_gradients = gradients(model, x, list(model.parameters()))
    run = torch.compile(model, backend=hubkernels(inner=inner, mapping=mapping(), select="first"), fullgraph=True)
    output, found = gradients(run, x, list(model.parameters()))
    tolerance = {"rtol": 0.03, "atol": 0.03} if dtype is not torch.float32 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(output, expected, **tolerance)
    torch.testing.assert_close(found, expected_gradients, **tolerance)
    assert executions("norms") == {"CountedRMSNorm": 3, "CountedRMSNorm.backward": 3}


def test_the_capability_of_the_device_chooses_the_kernel():
    major, minor = torch.cuda.get_device_capability()
    capability = 10 * major + minor
    ranges = {
        Device("cuda", CUDAProperties(capability, capability)): repository("norms", "CountedRMSNorm"),
        Device("cuda", CUDAProperties(0, capability - 1)): repository("norms", "RMSNorm"),
    }
    model, x = Stack().cuda(), torch.randn(3, 8, device="cuda")
    kernelize(model, mapping={"RMSNorm": ranges})(x)
    assert executions("norms") == {"CountedRMSNorm": 3}


def test_kernels_mapped_to_the_cpu_do_not_run_on_the_device():
    model, x = Stack().cuda(), torch.randn(3, 8, device="cuda")
    run = kernelize(model, mapping=mapping(device="cpu"))
    run(x)
    assert {call.miss.code for call in run.report.calls} == {"no_device"}


def test_cuda_graphs_capture_the_model_with_its_kernels():
    model, x = Stack().cuda().eval(), torch.randn(3, 8, device="cuda")
    run = torch.compile(model, backend=hubkernels(mapping=mapping("RMSNorm"), inner_mode="reduce-overhead", select="first"), fullgraph=True)
    with torch.no_grad():
        expected = model(x)
        for _ in range(3):
            torch.testing.assert_close(run(x), expected, rtol=1e-4, atol=1e-4)
