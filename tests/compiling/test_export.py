"""An exported program keeps the original layers, so that it runs where no kernel is; exporting disturbs nothing."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
import torch
from kernel_repositories import executions, reset_executions
from kernel_rows import ROWS
from layers import Block, Stack
from torch import nn

import fxkernels

pytestmark = pytest.mark.slow

ROW = ROWS["operator with a backward"]  # whose operator would be seen in a program
MODELS = {"by Dynamo": Stack, "symbolically": Block}
CAPTURED = pytest.mark.parametrize("captured", MODELS)
STRICT = pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])


@pytest.fixture(autouse=True)
def fresh_counters() -> None:
    reset_executions("norms")


def runs() -> int:
    return executions("norms")["CountedRMSNorm"]


def kernelized(captured: str) -> tuple[nn.Module, nn.Module]:
    """A model and its kernelized copy, captured this way."""
    model = MODELS[captured]().eval()
    copied = fxkernels.kernelize(model, mapping=ROW.mapping)
    assert copied.report.capture == ("symbolic" if captured == "symbolically" else "dynamo")
    return model, copied


def targets(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@STRICT
def test_a_model_is_exported_as_it_is_while_others_of_its_class_run_kernels(strict: bool, x: torch.Tensor) -> None:
    model = Stack().eval()
    before = targets(torch.export.export(model, (x,), strict=strict))
    torch.compile(Stack().eval(), backend=ROW.backend("aot_eager"))(x)
    kernelized("by Dynamo")[1](x)
    program = torch.export.export(model, (x,), strict=strict)
    assert targets(program) == before
    torch.testing.assert_close(program.module()(x), model(x))


@STRICT
@CAPTURED
@pytest.mark.parametrize("called", [False, True], ids=["never called", "called before"])
def test_a_kernelized_model_is_exported_with_its_original_layers(captured: str, strict: bool, called: bool, x: torch.Tensor) -> None:
    model, copied = kernelized(captured)
    if called:
        copied(x)
    program = torch.export.export(copied, (x,), strict=strict)
    assert not [name for name in targets(program) if not name.startswith("aten.")]
    assert torch.equal(program.module()(x), model(x))


@STRICT
@CAPTURED
def test_a_kernelized_model_runs_its_kernels_again_after_it_was_exported(captured: str, strict: bool, x: torch.Tensor) -> None:
    model, copied = kernelized(captured)
    torch.export.export(copied, (x,), strict=strict)
    assert runs() == 0
    torch.testing.assert_close(copied(x), model(x))
    assert runs() == len(copied.report.rewritten) > 0


@STRICT
def test_a_model_that_is_compiled_with_kernels_is_exported_with_its_original_layers(strict: bool, x: torch.Tensor) -> None:
    model = Stack().eval()
    model.compile(backend=ROW.backend("aot_eager"))
    model(x)
    ran = runs()
    program = torch.export.export(model, (x,), strict=strict)
    assert not [name for name in targets(program) if not name.startswith("aten.")]
    assert runs() == ran > 0


@CAPTURED
def test_an_exported_program_takes_sizes_that_are_dynamic(captured: str, x: torch.Tensor) -> None:
    model, copied = kernelized(captured)
    program = torch.export.export(copied, (x,), dynamic_shapes=({0: torch.export.Dim("rows")},))
    for rows in (2, 7):
        other = torch.randn(rows, 8)
        assert torch.equal(program.module()(other), model(other))


@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")  # torch.export.load itself (torch 2.11)
@CAPTURED
def test_an_exported_program_is_saved_and_loaded(captured: str, x: torch.Tensor) -> None:
    model, copied = kernelized(captured)
    file = io.BytesIO()
    torch.export.save(torch.export.export(copied, (x,)), file)
    file.seek(0)
    assert torch.equal(torch.export.load(file).module()(x), model(x))


def test_an_exported_program_can_be_compiled(x: torch.Tensor) -> None:
    model, copied = kernelized("by Dynamo")
    program = torch.export.export(copied, (x,)).module()
    torch.testing.assert_close(torch.compile(program, backend=ROW.backend("aot_eager"))(x), model(x))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="AOTInductor needs a C++ compiler on the CPU")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")  # Inductor deep-copies the graph's own (torch 2.13)
def test_ahead_of_time_inductor_packages_a_kernelized_model(tmp_path: Path, x: torch.Tensor) -> None:
    model, copied = kernelized("symbolically")
    with torch.no_grad():
        program = torch.export.export(copied, (x,))
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
        loaded = torch._inductor.aoti_load_package(package)
        torch.testing.assert_close(loaded(x), model(x))
