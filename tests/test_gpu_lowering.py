"""The rows of `lowering_rows` on a GPU: kernels really launched, in CUDA graphs, on other streams and devices. Run with `-m gpu`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lowering_rows import ROWS, GatedBlock, Row, assert_near, check_inference, check_step, exact, lowerings, step

import fxkernels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning"),  # torch's own warm-up of its graph pool does that
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),  # Inductor's advice, not about us
    pytest.mark.filterwarnings("ignore:Not enough SMs to use max_autotune_gemm mode:UserWarning"),
]

MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
TUNED = Row("triton-raw", {"SiluAndMul": "TunedSiluAndMul"}, "triton")


@pytest.fixture(params=ROWS)
def row(request: pytest.FixtureRequest) -> Row:
    row = ROWS[request.param]
    reason = row.why_unavailable("cuda")
    if reason is not None:
        pytest.skip(reason)
    return row


@MODES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_step_has_the_references_values_and_gradients(row: Row, dtype: torch.dtype, training: bool) -> None:
    check_step(row, "cuda", dtype, training=training, inner="aot_eager")


@pytest.mark.parametrize(
    ("dtype", "training"),
    [(torch.float32, True), (torch.float32, False), (torch.bfloat16, True)],
    ids=["fp32-train", "fp32-eval", "bf16-train"],
)
def test_inductor_runs_a_step(row: Row, dtype: torch.dtype, training: bool) -> None:
    check_step(row, "cuda", dtype, training=training)


@pytest.mark.parametrize(
    ("inner_mode", "training"),
    [("reduce-overhead", True), ("reduce-overhead", False), ("max-autotune-no-cudagraphs", True), ("max-autotune", True)],
)
def test_inductors_modes_run_a_step_again_and_again(row: Row, inner_mode: str, training: bool) -> None:
    check_step(row, "cuda", torch.float32, training=training, inner_mode=inner_mode, sizes=(5, 5, 5, 5))


def test_sizes_may_be_dynamic(row: Row) -> None:
    backend = check_step(row, "cuda", torch.float32, training=True, dynamic=True, sizes=(5, 7, 12))
    assert len(backend.report.graphs) == 1


@pytest.mark.parametrize("inner_mode", [None, "reduce-overhead"])
def test_inference_without_gradients(row: Row, inner_mode: str | None) -> None:
    check_inference(row, "cuda", torch.bfloat16, sizes=(5, 5, 5), inner_mode=inner_mode)


def test_kernels_without_a_backward_train_when_theirs_is_recomputed(row: Row) -> None:
    check_step(row, "cuda", torch.float32, training=True, backward="recompute")


def test_a_kernelized_model_runs_them_as_they_are(row: Row) -> None:
    model, x = GatedBlock().cuda(), torch.randn(2, 5, 40, device="cuda")
    run = fxkernels.kernelize(model, mapping=row.mapping("cuda"))
    assert_near(step(run, run, x), step(reference := exact(model), reference, x.double()), model)
    assert {call.layer_name for call in run.report.rewritten} == set(row.lowerings("cuda", training=True))


@MODES
@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
def test_kernels_behind_an_autotuner_and_heuristics(inner: str, training: bool) -> None:
    check_step(TUNED, "cuda", torch.float32, training=training, inner=inner)


def launched(run: Callable[[], Any]) -> Counter[str]:
    """What a function launches on the device, and the calls by which it does: name -> how often."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    # acc_events: torch 2.11 warns without it that there may be more than one cycle.
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        run()
        torch.cuda.synchronize()
    return Counter({event.key: event.count for event in profile.key_averages()})


@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
def test_the_triton_kernels_of_forward_and_backward_are_launched(inner: str) -> None:
    model, x = GatedBlock().cuda(), torch.randn(2, 5, 40, device="cuda")
    run = torch.compile(model, backend=ROWS["raw triton"].backend("cuda", inner=inner), fullgraph=True)
    step(run, model, x)
    names = launched(lambda: step(run, model, x))
    for kernel in ("_forward", "_backward_input", "_backward_weight", "_backward"):
        assert any(name.startswith(kernel) for name in names), sorted(names)


def test_a_cuda_graph_has_the_kernels_inside(row: Row) -> None:
    model, x = GatedBlock().cuda().eval(), torch.randn(2, 5, 40, device="cuda")
    run = torch.compile(model, backend=row.backend("cuda", inner_mode="reduce-overhead"), fullgraph=True)
    with torch.no_grad():
        for _ in range(3):
            run(x)
        names = launched(lambda: run(x))
    assert names["cudaGraphLaunch"] == 1, sorted(names)
    # One copies the input to where the graph expects it.
    assert names["cudaLaunchKernel"] + names["cuLaunchKernel"] + names["cudaLaunchKernelExC"] <= 1, sorted(names)


def test_kernels_run_on_the_current_stream(row: Row) -> None:
    model, stream = GatedBlock().cuda(), torch.cuda.Stream()
    run = torch.compile(model, backend=row.backend("cuda", inner="aot_eager"), fullgraph=True)
    x, rotation = torch.randn(2, 5, 40, device="cuda"), torch.linalg.qr(torch.randn(4096, 4096, device="cuda")).Q
    step(run, model, x)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        slow = torch.randn(4096, 4096, device="cuda")
        for _ in range(100):  # whoever runs on another stream is done before the input is there
            slow = slow @ rotation
        late = x + 0 * slow[0, 0]
        found = step(run, model, late)
    stream.synchronize()
    assert_near(found, step(reference := exact(model), reference, x.double()), model)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two devices")
@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
def test_the_device_of_the_tensors_is_current_around_each_launch(row: Row, inner: str) -> None:
    if inner == "aot_eager" and row.repository.startswith("triton"):
        pytest.skip("torch launches what it has traced on the current device; only Inductor makes it that of the tensors")
    torch.cuda.set_device(0)
    backend = check_step(row, "cuda:1", torch.float32, training=True, inner=inner, backward="recompute")
    assert torch.cuda.current_device() == 0
    assert lowerings(backend)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two devices")
def test_a_kernelized_model_on_another_device_runs_there(row: Row) -> None:
    torch.cuda.set_device(0)
    model, x = GatedBlock().to("cuda:1"), torch.randn(2, 5, 40, device="cuda:1")
    run = fxkernels.kernelize(model, mapping=row.mapping("cuda"))
    assert_near(step(run, run, x), step(reference := exact(model), reference, x.double()), model)


SANITIZER = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")


@pytest.mark.timeout(600)
@pytest.mark.skipif(SANITIZER is None, reason="needs compute-sanitizer")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_compute_sanitizer_finds_nothing_in_our_triton_kernels(tool: str) -> None:
    assert SANITIZER is not None
    # Without torch's pool, a neighbour's memory is nobody's.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [
        SANITIZER,
        "--tool",
        tool,
        "--error-exitcode",
        "9",
        sys.executable,
        str(Path(__file__).with_name("launch_triton_kernels.py")),
    ]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert "ERROR SUMMARY: 0 errors" in result.stdout or "RACECHECK SUMMARY: 0 hazards" in result.stdout, result.stdout[-4000:]
