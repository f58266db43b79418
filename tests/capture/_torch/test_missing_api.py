"""What happens where torch no longer has a private API: it is taken away here, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fxkernels import FxKernelsError
from fxkernels.capture import _torch

SENTENCE = "no longer has what fxkernels relies on"
RUN = """
import torch
from layers import Stack
from kernel_repositories import repository
from fxkernels import hubkernels

model, x = Stack(), torch.randn(3, 8)
backend = hubkernels(inner="eager", mapping={"RMSNorm": {"cpu": repository("norms", "RMSNorm")}}, verify="off")
torch.testing.assert_close(torch.compile(model, backend=backend)(x), model(x))
print(len(backend.report.rewritten), "rewritten")
"""


def run_without(program: str) -> subprocess.CompletedProcess[str]:
    """Run a model after a program that takes something away from what `_torch` has of torch."""
    path = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]
    return subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {path}\n{program}\n{RUN}"], capture_output=True, text=True)


def test_a_model_runs_without_kernels_where_the_frames_of_dynamo_cannot_be_read() -> None:
    result = run_without("import types, fxkernels.capture._torch.tracing as t; t.vt = types.ModuleType('torch._dynamo.variables')")
    assert result.returncode == 0, result.stderr
    assert f"models run without kernels: torch {torch.__version__} {SENTENCE}" in result.stderr
    assert result.stderr.count(SENTENCE) == 1
    assert result.stdout == "0 rewritten\n"


@pytest.mark.parametrize(
    "program",
    [
        "import torch._dynamo.eval_frame as e; del e.skip_code",
        "import fxkernels.capture._torch.tracing as t; t.InstructionTranslator = type('InstructionTranslator', (), {})",
        "import fxkernels.capture._torch.compiling as c; c.CompileContext = type('CompileContext', (), {})",
    ],
    ids=["at import", "when Dynamo is told of us", "while compiling"],
)
def test_what_cannot_go_on_is_an_error_of_one_sentence(program: str) -> None:
    result = run_without(program)
    assert result.returncode == 1
    assert f"FxKernelsError: torch {torch.__version__} {SENTENCE}" in result.stderr


def test_explains_missing_api_leaves_the_errors_of_others_alone() -> None:
    with pytest.raises(AttributeError, match="no such thing"), _torch.explains_missing_api():
        raise AttributeError("no such thing")
    with pytest.raises(FxKernelsError, match=SENTENCE), _torch.explains_missing_api():
        _torch.current_backend(object())
