"""The backward of an opaque kernel: what its forward saved goes through the graph, and nothing is computed twice without need."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from kernel_repositories import executions, reset_executions
from opaque_layers import Around, Norm, Scale, assert_equals_float64, backend, lowering
from torch import nn

from fxkernels import KernelRuntimeError

DYNAMIC = pytest.mark.parametrize("dynamic", [None, True], ids=["static", "dynamic"])
SAVING = ["OperatorNorm", "FlatNorm", "OverwritingNorm"]


def x(rows: int = 6) -> torch.Tensor:
    return torch.randn(rows, 8, requires_grad=True)


@pytest.fixture(autouse=True)
def fresh_counters() -> None:
    reset_executions("opaque")


@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
@pytest.mark.parametrize("kernel", SAVING)
@DYNAMIC
def test_a_kernel_with_a_backward_runs_each_way_once_per_step(kernel: str, dynamic: bool | None, inner: str) -> None:
    model, chosen = Around(Norm()), backend("Norm", kernel, inner)
    run = torch.compile(model, backend=chosen, fullgraph=True, dynamic=dynamic)
    assert_equals_float64(model, run, x())
    assert_equals_float64(model, run, x(9))
    reset_executions("opaque")
    assert_equals_float64(model, run, x(9))
    assert executions("opaque") == {"norm": 1, "norm_backward": 1}
    assert lowering(chosen).remarks == ("opaque",)


@DYNAMIC
def test_a_kernel_that_stashes_tensors_runs_its_forward_again_and_the_report_says_why(dynamic: bool | None) -> None:
    model, chosen = Around(Norm()), backend("Norm", "StashingNorm")
    run = torch.compile(model, backend=chosen, fullgraph=True, dynamic=dynamic)
    assert_equals_float64(model, run, x())
    reset_executions("opaque")
    assert_equals_float64(model, run, x())
    assert executions("opaque") == {"norm": 2, "norm_backward": 1}
    reason = "it keeps more than tensors that torch knows of: ctx.scale is a Tensor"
    assert lowering(chosen).recomputes == f"its forward in the backward: {reason}"


@DYNAMIC
def test_a_kernel_that_saves_what_it_has_read_from_its_input_runs_its_forward_again(dynamic: bool | None) -> None:
    model, chosen = Around(Scale()), backend("Scale", "ValueScale")
    run = torch.compile(model, backend=chosen, fullgraph=True, dynamic=dynamic)
    assert_equals_float64(model, run, x())
    assert_equals_float64(model, run, x(7))
    assert lowering(chosen).recomputes == "its forward in the backward: what it saves depends on its inputs' values"


@DYNAMIC
def test_a_kernel_of_torch_operations_that_looks_at_its_data_keeps_torchs_gradient(dynamic: bool | None) -> None:
    model, chosen = Around(Scale()), backend("Scale", "BranchingScale")
    run = torch.compile(model, backend=chosen, fullgraph=True, dynamic=dynamic)
    assert_equals_float64(model, run, x())
    reset_executions("opaque")
    assert_equals_float64(model, run, x(9) if dynamic else x())
    assert executions("opaque") == {"BranchingScale": 1}


def test_a_gradient_that_the_kernel_leaves_out_is_the_layers() -> None:
    model, chosen = Around(Scale()), backend("Scale", "Deaf")
    assert_equals_float64(model, torch.compile(model, backend=chosen, fullgraph=True), x())
    assert lowering(chosen).recomputes == "the original layer in the backward: it gives no gradient for self.weight"


def test_a_kernel_that_does_something_else_for_other_values_is_an_error_instead_of_a_wrong_gradient() -> None:
    model, chosen = Scale(), backend("Scale", "Surprising")
    run = torch.compile(model, backend=chosen, fullgraph=True)
    assert_equals_float64(model, run, x())
    with pytest.raises(KernelRuntimeError, match="depends on the values of its inputs"):
        run((x() * 1000).detach().requires_grad_())


READERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "expanded": lambda y: y.sum(),
    "expanded in one dimension": lambda y: y.sum(0),
    "permuted": lambda y: y.transpose(0, 2).reshape(-1),
    "strided": lambda y: torch.stack([y, y.sin()], -1),
    "part of a larger tensor": lambda y: torch.cat([y, y.sin()], -1),
}


class Read(nn.Module):
    """A layer, and what reads its output in the same graph."""

    def __init__(self, layer: nn.Module, read: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.read = layer, read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.layer(x))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("inner", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_an_incoming_gradient_has_the_strides_of_the_output_whatever_reads_that(reader: str, inner: str) -> None:
    """Autograd promises no strides (torch 2.15 says so), and a kernel that goes by pointers reads what is not there."""
    model, chosen = Read(Scale(), READERS[reader]), backend("Scale", "PointerScale", inner)
    values = torch.randn(4, 6, 5, 8, requires_grad=True)
    assert_equals_float64(model, torch.compile(model, backend=chosen, fullgraph=True), values)
    assert lowering(chosen).remarks == ("opaque",)
    run = torch.compile(model.layer, backend=chosen, fullgraph=True)
    assert_equals_float64(model, lambda x: READERS[reader](run(x)), values)


def test_steps_may_overlap() -> None:
    model, chosen = Around(Norm()), backend("Norm", "OperatorNorm")
    run = torch.compile(model, backend=chosen, fullgraph=True)
    values = [x(), x(), x()]
    outputs = [run(value) for value in values]
    for value, output in reversed(list(zip(values, outputs, strict=True))):
        expected = torch.autograd.grad(model(value).sin().sum(), value)
        torch.testing.assert_close(torch.autograd.grad(output.sin().sum(), value), expected)


def test_a_half_used_output_has_the_right_gradient() -> None:
    model, chosen = Norm(), backend("Norm", "FlatNorm")
    run, values = torch.compile(model, backend=chosen, fullgraph=True), x()
    expected = torch.autograd.grad(model(values)[:2].sum(), [values, model.weight])
    torch.testing.assert_close(torch.autograd.grad(run(values)[:2].sum(), [values, model.weight]), expected, rtol=1e-4, atol=1e-5)


def test_no_tensor_of_a_step_stays_behind() -> None:
    model, chosen = Norm(), backend("Norm", "OperatorNorm", lambda gm, _: gm.forward)
    run = torch.compile(model, backend=chosen, fullgraph=True)
    values = torch.randn(6, 8).requires_grad_()
    output = run(values * 2)
    output.sum().backward()
    storages = [weakref.ref(tensor.untyped_storage()) for tensor in (values, output)]
    del output, values
    gc.collect()
    assert [storage() for storage in storages] == [None, None]


def test_the_backward_runs_inside_another_backward() -> None:
    """A node that the engine's other graph does not ask for must be asked for by ours."""
    model, chosen = Around(Scale()), backend("Scale", "BranchingScale", lambda gm, _: gm.forward)
    run, values = torch.compile(model, backend=chosen, fullgraph=True), x()
    wanted = [model.layer.weight]
    torch.testing.assert_close(torch.autograd.grad(run(values).sum(), wanted), torch.autograd.grad(model(values).sum(), wanted))
