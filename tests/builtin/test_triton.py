"""The built-in Triton kernels compute what their layers compute: in Triton's interpreter, which needs no GPU.

The interpreter is chosen when Triton is imported, so these tests run in a process of their own; the last ones start it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from builtin_cases import CASES, check, exact, kernel_of, prepared, skip_slices, step, triton_repository

import fxkernels
from fxkernels import hubkernels

pytest.importorskip("triton")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in Triton's interpreter: TRITON_INTERPRET=1")
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # numpy on exp(large), in the interpreter

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
EACH = pytest.mark.parametrize("name", CASES)


@interpreted
@pytest.mark.parametrize("name", ["RMSNorm", "RMSNorm gated by SiLU", "LayerNorm", "SiluAndMul", "rotary", "linear cross entropy"])
def test_a_few_short_rows_in_half_precision(name):
    check(CASES[name], torch.float16, rows=3, size=10)


@interpreted
@pytest.mark.slow
@EACH
@DTYPES
@pytest.mark.parametrize(("rows", "size"), [(1, 16), (2, 64), (17, 34)])
def test_rows_of_any_number_and_length(name, dtype, rows, size):
    skip_slices(name, rows)
    check(CASES[name], dtype, rows=rows, size=size)


@interpreted
@pytest.mark.slow
@EACH
@DTYPES
def test_an_input_with_gaps_is_not_read_as_if_it_had_none(name, dtype):
    if name.startswith("causal convolution"):
        pytest.skip("its input is transposed in all tests")
    check(CASES[name], dtype, rows=3, size=10, gaps=True)


@interpreted
@pytest.mark.slow
@pytest.mark.parametrize("name", ["RMSNorm", "RMSNorm gated by SiLU", "LayerNorm", "SiluAndMul", "cross entropy"])
def test_rows_that_do_not_fit_into_registers(name):
    check(CASES[name], torch.float32, rows=3, size=70_001 if name != "cross entropy" else 20_001)


@interpreted
@pytest.mark.slow
@EACH
def test_second_derivatives_are_the_layers(name):
    layer, arguments = prepared(CASES[name], torch.float32, rows=3, size=6)

    def penalty_gradients(run):
        outputs = run(*arguments)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        inputs = [value for value in (*arguments, *layer.parameters()) if isinstance(value, torch.Tensor) and value.requires_grad]
        first = torch.autograd.grad(sum(y.square().sum() for y in outputs), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs, allow_unused=True)

    kernel = kernel_of(CASES[name])
    for ours, theirs in zip(penalty_gradients(lambda *values: kernel(layer, *values)), penalty_gradients(layer), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * max(1.0, theirs.abs().max().item()))


@interpreted
@pytest.mark.slow
@EACH
def test_an_expanded_incoming_gradient_and_a_second_backward(name):
    layer, arguments = prepared(CASES[name], torch.float32, rows=3, size=6)
    kernel = kernel_of(CASES[name])
    outputs = kernel(layer, *arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    inputs = [value for value in (*arguments, *layer.parameters()) if isinstance(value, torch.Tensor) and value.requires_grad]
    total = sum(y.sum() for y in outputs)
    first, second = torch.autograd.grad(total, inputs, retain_graph=True), torch.autograd.grad(total, inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    precise, values = exact(layer, arguments)
    wanted, _ = step(precise, precise, values, [torch.ones_like(y).double() for y in outputs])
    for ours, true in zip(first, wanted[len(outputs) :], strict=True):
        torch.testing.assert_close(ours.double(), true, rtol=1e-4, atol=1e-4 * max(1.0, true.abs().max().item()))


@interpreted
@pytest.mark.slow
@EACH
def test_it_is_chosen_for_its_layer_and_nothing_that_it_demands_is_in_the_way(name):
    case = CASES[name]
    layer, arguments = prepared(case, torch.float32, rows=3, size=6)
    backend = hubkernels(mapping={case.layer_name: {"cpu": triton_repository(case.layer_name)}}, inner="aot_eager")
    run = torch.compile(layer, backend=backend)
    found, weights = step(run, layer, arguments)
    wanted, _ = step(layer, layer, arguments, weights)
    assert len(backend.report.rewritten) == 1, str(backend.report)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@interpreted
@pytest.mark.parametrize("name", ["SiluAndMul"])
def test_an_empty_input_gives_an_empty_output(name):
    layer, arguments = prepared(CASES[name], torch.float32, rows=0, size=6)
    found, _ = step(lambda x: kernel_of(CASES[name])(layer, x), layer, arguments)
    assert [tuple(x.shape) for x in found] == [(0, 6), (0, 12)]


@interpreted
def test_the_loss_is_the_same_in_parts(monkeypatch):
    case = CASES["linear cross entropy"]
    layer, arguments = prepared(case, torch.float32, rows=21, size=20)
    kernel = kernel_of(case)
    linear = sys.modules[kernel.__module__.replace(".layers", ".linear")]
    whole, weights = step(lambda *values: kernel(layer, *values), layer, arguments)
    monkeypatch.setattr(linear, "_FORWARD", 400)
    monkeypatch.setattr(linear, "_BACKWARD", 400)
    monkeypatch.setattr(linear, "_TILE", 4)
    assert [part.stop - part.start for part in linear._parts(60, 21, 400)] == [16, 16, 16, 12]
    in_parts, _ = step(lambda *values: kernel(layer, *values), layer, arguments, weights)
    for ours, theirs in zip(in_parts, whole, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_loss_as_a_function_is_the_loss():
    hidden, weight, target = torch.randn(5, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True), torch.tensor([1, 2, -100, 6, 0])
    loss = fxkernels.builtin.linear_cross_entropy(hidden, weight, target)
    wanted = torch.nn.functional.cross_entropy(hidden @ weight.t(), target)
    torch.testing.assert_close(loss, wanted)
    for ours, theirs in zip(torch.autograd.grad(loss, (hidden, weight)), torch.autograd.grad(wanted, (hidden, weight)), strict=True):
        torch.testing.assert_close(ours, theirs)


def in_interpreter(*options: str) -> None:
    files = __file__, *(str(Path(__file__).with_name(f"test_{name}.py")) for name in ("configurations", "attention"))
    command = [sys.executable, "-m", "pytest", *files, "-q", "-x", "-p", "no:cacheprovider", *options]
    result = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-4000:]


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_the_quick_ones_pass_in_the_interpreter():
    in_interpreter("-m", "not gpu and not slow")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_all_pass_in_the_interpreter():
    in_interpreter("-m", "not gpu and slow")
