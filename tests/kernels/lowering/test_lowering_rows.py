"""Every way of registering ops runs in one full graph, forward and backward, with the reference's numbers, and the report says how."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lowering_rows import ROWS, GatedBlock, Row, assert_near, check_inference, check_step, exact, step
from row_kernels import calls, why_unavailable

import fxkernels

pytestmark = pytest.mark.slow

MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
TRITON = "triton"  # in the names of the rows that need it


@pytest.fixture(params=ROWS)
def row(request: pytest.FixtureRequest) -> Row:
    row = ROWS[request.param]
    reason = row.why_unavailable("cpu")
    if reason is not None:
        pytest.skip(reason)
    return row


@MODES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_step_has_the_references_values_and_gradients(row: Row, dtype: torch.dtype, training: bool) -> None:
    check_step(row, "cpu", dtype, training=training, inner="aot_eager")


@MODES
def test_inductor_runs_a_step(row: Row, training: bool) -> None:
    check_step(row, "cpu", torch.float32, training=training)


@MODES
def test_sizes_may_be_dynamic(row: Row, training: bool) -> None:
    backend = check_step(row, "cpu", torch.float32, training=training, dynamic=True, sizes=(5, 7, 12), inner="aot_eager")
    assert len(backend.report.graphs) == 1


def test_inductor_takes_dynamic_sizes(row: Row) -> None:
    backend = check_step(row, "cpu", torch.float32, training=False, dynamic=True, sizes=(5, 7, 12))
    assert len(backend.report.graphs) == 1


@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
def test_inference_without_gradients(row: Row, inner: str) -> None:
    check_inference(row, "cpu", torch.float32, sizes=(5, 7), inner=inner)


def test_kernels_without_a_backward_train_when_theirs_is_recomputed(row: Row) -> None:
    check_step(row, "cpu", torch.float32, training=True, inner="aot_eager", backward="recompute")


def test_the_graph_runs_the_kernel_and_not_the_reference(row: Row) -> None:
    if row.repository.startswith(TRITON):
        pytest.skip("Triton kernels count nothing")
    model = GatedBlock()
    run = torch.compile(model, backend=row.backend("cpu", inner="aot_eager"), fullgraph=True)
    x = torch.randn(2, 5, 40)
    step(run, model, x)
    before = calls(row.repository)
    step(run, model, x)
    forwards = calls(row.repository)[0] - before[0]
    assert forwards >= len(row.lowerings("cpu", training=True))


def test_a_backward_that_saves_runs_the_forward_once_per_step() -> None:
    row = ROWS["C++ without fake"]
    if (reason := row.why_unavailable("cpu")) is not None:
        pytest.skip(reason)
    model = GatedBlock()
    run = torch.compile(model, backend=row.backend("cpu", inner="aot_eager"), fullgraph=True)
    x = torch.randn(2, 5, 40)
    step(run, model, x)
    before = calls(row.repository)
    step(run, model, x)
    assert tuple(after - earlier for after, earlier in zip(calls(row.repository), before, strict=True)) == (2, 2)


def test_what_a_kernel_hides_is_recomputed_and_the_report_says_so() -> None:
    row = ROWS["C++ that hides what it saves"]
    if (reason := row.why_unavailable("cpu")) is not None:
        pytest.skip(reason)
    backend = check_step(row, "cpu", torch.float32, training=True, inner="aot_eager")
    (call,) = backend.report.rewritten
    assert call.decisions[-1].lowering is not None
    assert call.decisions[-1].lowering.recomputes


def test_a_kernelized_model_runs_them_as_they_are(row: Row) -> None:
    model, x = GatedBlock(), torch.randn(2, 5, 40)
    run = fxkernels.kernelize(model, mapping=row.mapping("cpu"))
    assert_near(step(run, run, x), step(reference := exact(model), reference, x.double()), model)
    assert {call.layer_name for call in run.report.rewritten} == set(row.lowerings("cpu", training=True))


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this is the interpreter")
@pytest.mark.skipif(why_unavailable("triton-raw", "cuda") is not None, reason="needs triton")
def test_triton_rows_run_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-x", "-m", "not gpu", "-k", TRITON, "-p", "no:cacheprovider"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(command, env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:]
