"""The built-in Triton kernels on a GPU: numerics at real sizes, inside compiled graphs, and admitted like anybody's. Run with `-m gpu`."""

from __future__ import annotations

import pytest
import torch
from builtin_cases import CASES, check, exact, prepared, skip_slices, step, triton_repository

from fxkernels import hubkernels
from fxkernels.builtin import linear_cross_entropy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning"),  # torch's own warm-up of its graph pool does that
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),  # Inductor's advice, not about us
]

EACH = pytest.mark.parametrize("name", CASES)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
ROWS = [name for name, case in CASES.items() if case.layer_name.endswith(("Norm", "AndMul", "GELU"))]


@EACH
@DTYPES
@pytest.mark.parametrize(("rows", "size"), [(1, 64), (33, 130), (257, 1024)])
def test_outputs_and_gradients_are_as_exact_as_the_layers(name, dtype, rows, size):
    skip_slices(name, rows)
    check(CASES[name], dtype, rows=rows, size=size, device="cuda")


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(("rows", "size"), [(1, 4096), (4096, 4096), (16384, 8192), (5, 100_003)])
def test_large_inputs_are_as_exact(name, rows, size):
    check(CASES[name], torch.bfloat16, rows=rows, size=size, device="cuda")


@EACH
def test_an_input_with_gaps_is_not_read_as_if_it_had_none(name):
    if not name.startswith("causal convolution"):  # whose input is transposed in all tests
        check(CASES[name], torch.bfloat16, rows=33, size=130, device="cuda", gaps=True)


def run_compiled(name: str, dtype: torch.dtype, *, times: int = 1, dynamic: bool | None = None, **options: object) -> None:
    case = CASES[name]
    backend = hubkernels(mapping={case.layer_name: {"cuda": triton_repository(case.layer_name, "cuda")}}, select="first", **options)
    layer, arguments = prepared(case, dtype, rows=33, size=128, device="cuda")
    run = torch.compile(layer, backend=backend, fullgraph=True, dynamic=dynamic)
    for _ in range(times):
        _, arguments = prepared(case, dtype, rows=33, size=128, device="cuda")
        found, weights = step(run, layer, arguments)
        found = [tensor.clone() for tensor in found]  # the memory of a CUDA graph is used again by its next run
        precise, values = exact(layer, arguments)
        wanted, _ = step(precise, precise, values, [w.double() for w in weights])
        for ours, true in zip(found, wanted, strict=True):
            error = (ours.double() - true).norm() / true.norm().clamp_min(1e-30)
            assert error <= max(4 * torch.finfo(dtype).eps, 1e-5)
    assert len(backend.report.rewritten) == 1, str(backend.report)


@EACH
def test_inductor_runs_a_step(name):
    run_compiled(name, torch.bfloat16)
    torch._dynamo.reset()


@EACH
def test_cuda_graphs_run_a_step_again_and_again(name):
    run_compiled(name, torch.float32, times=4, inner_mode="reduce-overhead")
    torch._dynamo.reset()


@EACH
def test_admission_admits_it(name):
    run_compiled(name, torch.bfloat16, inner="eager", verify="probe")
    torch._dynamo.reset()


def test_a_step_with_the_loss_never_holds_all_logits():
    hidden, weight = (torch.randn(n, 256, device="cuda", dtype=torch.bfloat16).requires_grad_() for n in (8192, 128_256))
    target = torch.randint(128_256, (8192,), device="cuda")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    torch.autograd.grad(linear_cross_entropy(hidden, weight, target), (hidden, weight))
    assert torch.cuda.max_memory_allocated() - before < 8192 * 128_256 * hidden.element_size() / 2


def test_the_gradient_of_the_weight_is_as_exact_over_many_chunks():
    hidden, weight = (torch.randn(n, 256, device="cuda", dtype=torch.bfloat16).requires_grad_() for n in (4096, 128_256))
    target = torch.randint(128_256, (4096,), device="cuda")
    found = torch.autograd.grad(linear_cross_entropy(hidden, weight, target), (hidden, weight))
    logits = torch.nn.functional.linear(hidden, weight)
    own = torch.autograd.grad(torch.nn.functional.cross_entropy(logits.float(), target), (hidden, weight))
    wide = [tensor.detach().float().requires_grad_() for tensor in (hidden, weight)]
    true = torch.autograd.grad(torch.nn.functional.cross_entropy(wide[0] @ wide[1].t(), target), wide)
    for ours, theirs, wanted in zip(found, own, true, strict=True):
        errors = [(x.float() - wanted).norm() / wanted.norm() for x in (ours, theirs)]
        assert errors[0] <= 1.05 * errors[1]
