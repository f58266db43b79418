"""The shipped fusions with their Triton kernels, in Triton's interpreter, which needs no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from builtin_cases import triton_repository
from fusion_cases import CASES, FusionCase, assert_equal_steps, stepped

from fxkernels import hubkernels

pytest.importorskip("triton")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# The kernel of attention is for decoding, and that of experts for CPUs.
TRAINED = {name: case for name, case in CASES.items() if case.layer_name not in ("attention", "experts")}
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # numpy on exp(large), in the interpreter


@pytest.mark.skipif(not INTERPRETED, reason="runs in Triton's interpreter: TRITON_INTERPRET=1")
@pytest.mark.parametrize("case", TRAINED.values(), ids=list(TRAINED))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_it_equals_the_models_operations_with_equal_gradients(case: FusionCase, dtype: torch.dtype) -> None:
    model, inputs = case.prepared(dtype)
    backend = hubkernels(inner="eager", mapping={case.layer_name: {"cpu": triton_repository(case.layer_name)}})
    found = stepped(torch.compile(model, backend=backend, fullgraph=True), model, inputs)
    assert [call.layer_name for call in backend.report.rewritten] == [case.layer_name], str(backend.report)
    assert_equal_steps(found, stepped(model, model, inputs), dtype)


@pytest.mark.skipif(not INTERPRETED, reason="runs in Triton's interpreter: TRITON_INTERPRET=1")
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.layer_name == "attention" and "bias" not in name])
def test_attention_of_few_positions_equals_the_models_operations(name: str) -> None:
    case = CASES[name]
    model, inputs = case.prepared(torch.float32)
    backend = hubkernels(inner="eager", mapping={"attention": {"cpu": triton_repository("attention")}})
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model.eval(), backend=backend)(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)
    assert len(backend.report.rewritten) == 1, str(backend.report)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_all_pass_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-x", "-p", "no:cacheprovider"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:]
