"""Kernels that no compiler can trace, as operators in one full graph."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_repositories import UNIVERSAL, copy_repository, executions, repository, reset_executions
from opaque_layers import Around, Doubled, Gather, Halves, Identity, Norm, Plus, Product, Scale, assert_equals_float64, backend, lowering
from torch import nn

from fxkernels import FxKernelsError, KernelRuntimeError, NoKernelError, hubkernels

INNERS = pytest.mark.parametrize("inner", ["aot_eager", "inductor"])


@pytest.fixture(autouse=True)
def fresh_counters() -> None:
    reset_executions("opaque")


def x(rows: int = 6, *, requires_grad: bool = True) -> torch.Tensor:
    return torch.randn(rows, 8, requires_grad=requires_grad)


def compiled(model: nn.Module, chosen: Any, **options: Any) -> Callable[..., Any]:
    return torch.compile(model, backend=chosen, fullgraph=True, **options)


# --- inference and gradients --------------------------------------------------------------------------------------------------------------


@INNERS
@pytest.mark.parametrize("dynamic", [None, True], ids=["static", "dynamic"])
def test_inference_in_one_graph(inner: str, dynamic: bool | None) -> None:
    model, chosen = Around(Norm()).eval(), backend("Norm", "OperatorNorm", inner)
    run = compiled(model, chosen, dynamic=dynamic)
    with torch.no_grad():
        for rows in (6, 3):
            values = x(rows)
            torch.testing.assert_close(run(values), model(values))
    assert executions("opaque")["norm"] >= 2
    assert lowering(chosen).remarks == ("opaque",)


@pytest.mark.parametrize("kernel", ["InferenceNorm", "DetachedNorm"])
@pytest.mark.parametrize("dynamic", [None, True], ids=["static", "dynamic"])
def test_gradient_of_a_kernel_without_a_backward_is_the_layers(kernel: str, dynamic: bool | None) -> None:
    model, chosen = Around(Norm()).eval(), backend("Norm", kernel)
    run = compiled(model, chosen, dynamic=dynamic)
    assert_equals_float64(model, run, x())
    assert_equals_float64(model, run, x(9))
    reason = {"InferenceNorm": "the kernel has no backward", "DetachedNorm": "it returns a detached output"}[kernel]
    assert lowering(chosen).recomputes == f"the original layer in the backward: {reason}"


def test_a_kernel_without_a_backward_keeps_the_layer_in_training_mode_unless_its_gradient_may_be_recomputed() -> None:
    model = Around(Norm())
    chosen = backend("Norm", "InferenceNorm")
    compiled(model, chosen)(x())
    assert chosen.report.calls[0].miss.code == "no_backward"
    torch._dynamo.reset()
    chosen = backend("Norm", "InferenceNorm", backward="recompute")
    assert_equals_float64(model, compiled(model, chosen), x())
    assert chosen.report.calls[0].status == "rewritten"


def test_an_operator_without_a_backward_whose_output_seems_to_have_a_gradient_gets_the_layers() -> None:
    model, chosen = Around(Doubled()), backend("Doubled", "Doubled")
    assert_equals_float64(model, compiled(model, chosen), x())
    assert lowering(chosen).recomputes == "the original layer in the backward: its operators have no backward"


@pytest.mark.parametrize("frozen", ["weight", "input", "both"])
def test_only_what_needs_a_gradient_gets_one(frozen: str) -> None:
    layer = Norm()
    layer.weight.requires_grad_(frozen not in ("weight", "both"))
    values = x(requires_grad=frozen not in ("input", "both"))
    model, chosen = nn.Sequential(layer, nn.Linear(8, 8)), backend("Norm", "OperatorNorm")
    assert_equals_float64(model, compiled(model, chosen), values)
    assert executions("opaque")["norm_backward"] >= (0 if frozen == "both" else 1)


def test_inference_mode() -> None:
    model, chosen = Around(Norm()).eval(), backend("Norm", "OperatorNorm", "inductor")
    run = compiled(model, chosen)
    with torch.inference_mode():
        values = torch.randn(6, 8)
        torch.testing.assert_close(run(values), model(values))
    assert lowering(chosen).name == "opaque"


def test_checkpointing_runs_the_kernel_in_both_passes() -> None:
    model, chosen = Around(Norm()), backend("Norm", "OperatorNorm")

    def step(values: torch.Tensor) -> torch.Tensor:
        return torch.utils.checkpoint.checkpoint(model, values, use_reentrant=False)

    values = x()
    expected = torch.autograd.grad(model(values).sin().sum(), [values, *model.parameters()])
    found = torch.autograd.grad(torch.compile(step, backend=chosen, fullgraph=True)(values).sin().sum(), [values, *model.parameters()])
    torch.testing.assert_close(found, expected)
    assert lowering(chosen).name == "opaque"


def test_gradients_accumulate_and_the_graph_can_be_retained() -> None:
    model, chosen = Around(Norm()), backend("Norm", "OperatorNorm")
    run, values = compiled(model, chosen), x()
    output = run(values).sum()
    output.backward(retain_graph=True)
    once = [parameter.grad.clone() for parameter in model.parameters()]
    output.backward()
    torch.testing.assert_close([parameter.grad for parameter in model.parameters()], [2 * gradient for gradient in once])


@INNERS
@pytest.mark.parametrize("inside", [True, False], ids=["in the graph", "around it"])
def test_autocast_is_in_force_when_the_kernel_runs(inner: str, inside: bool) -> None:
    layer, chosen = Product(), backend("Product", "Autocast", inner)

    def model(values: torch.Tensor) -> torch.Tensor:
        if not inside:
            return layer(values) * 2
        with torch.autocast("cpu", torch.bfloat16):
            return layer(values) * 2

    def call(function: Callable[..., torch.Tensor], values: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=not inside):
            return function(values)

    values = x()
    expected, output = call(model, values), call(torch.compile(model, backend=chosen, fullgraph=True), values)
    assert output.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected)
    gradients = [torch.autograd.grad(result.float().sum(), [values, layer.weight]) for result in (expected, output)]
    torch.testing.assert_close(*gradients, rtol=0.02, atol=0.02)
    assert lowering(chosen).name == "opaque"


# --- shapes ------------------------------------------------------------------------------------------------------------------------------


@INNERS
def test_a_marked_dimension_is_one_graph(inner: str) -> None:
    model, chosen = Around(Norm()), backend("Norm", "OperatorNorm", inner)
    run = compiled(model, chosen)
    for rows in (6, 5, 11):
        values = x(rows)
        torch._dynamo.mark_dynamic(values, 0)
        assert_equals_float64(model, run, values)
    assert len(chosen.report.graphs) == 1


@pytest.mark.parametrize("dynamic", [None, True], ids=["static", "dynamic"])
def test_an_empty_batch_is_the_layers(dynamic: bool | None) -> None:
    model, chosen = Around(Norm()), backend("Norm", "OperatorNorm")
    run = compiled(model, chosen, dynamic=dynamic)
    for rows in (4, 0, 1):
        assert_equals_float64(model, run, x(rows))


def test_no_more_graphs_than_with_the_layer() -> None:
    counts = {}
    for name in ("plain", "ours"):
        torch._dynamo.reset()
        model, chosen = Around(Norm()), backend("Norm", "OperatorNorm")
        graphs: list[Any] = []
        run = compiled(model, chosen if name == "ours" else lambda gm, _, graphs=graphs: graphs.append(gm) or gm.forward)
        for rows in (6, 6, 5, 7, 1, 0, 12):
            run(x(rows)).sum().backward()
        counts[name] = len(chosen.report.graphs) if name == "ours" else len(graphs)
    assert counts["ours"] == counts["plain"]


# --- arguments and outputs ----------------------------------------------------------------------------------------------------------------


@INNERS
def test_a_kernel_that_returns_its_input_hands_out_a_copy(inner: str) -> None:
    model, chosen = Around(Identity()), backend("Identity", "Identity", inner)
    assert_equals_float64(model, compiled(model, chosen), x())
    assert lowering(chosen).name == "opaque"


@INNERS
def test_outputs_that_share_memory_become_two(inner: str) -> None:
    layer, chosen = Halves(), backend("Halves", "Halves", inner)

    class Model(nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            one, other = layer(values * 2, scale=3.0)
            one = one.add_(1)
            return one * other

    model = Model()
    assert_equals_float64(model, compiled(model, chosen), x())
    assert lowering(chosen).name == "opaque"


def test_a_kernel_that_returns_the_same_tensor_again_hands_out_copies() -> None:
    layer, chosen = Plus().eval(), backend("Plus", "Keeping")
    run = compiled(layer, chosen)
    values = [x(requires_grad=False), x(requires_grad=False)]
    outputs = [run(value) for value in values]
    torch.testing.assert_close(outputs, [value + 1 for value in values])


@pytest.mark.parametrize("dynamic", [None, True], ids=["static", "dynamic"])
def test_integers_booleans_none_lists_and_dicts(dynamic: bool | None) -> None:
    layer, chosen = Gather(), backend("Gather", "Gather")

    def model(values: torch.Tensor, index: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = layer(values * 1, index, mask, [values.shape[0], 2], flag=True)
        return found["rows"] * 2, found["index"]

    run = torch.compile(model, backend=chosen, fullgraph=True, dynamic=dynamic)
    for rows in (6, 9):
        arguments = x(rows), torch.tensor([0, 2, 2]), torch.tensor([True, False, True])
        (expected, index), (output, own_index) = model(*arguments), run(*arguments)
        torch.testing.assert_close((output, own_index), (expected, index))
        torch.testing.assert_close(torch.autograd.grad(output.sum(), arguments[0]), torch.autograd.grad(expected.sum(), arguments[0]))
    found = lowering(chosen)
    assert (found.name, found.recomputes) == (
        "opaque",
        "its forward in the backward: what it saves may depend on the integers among its inputs",
    )


@INNERS
def test_an_input_that_the_kernel_overwrites_is_copied_and_the_report_says_so(inner: str) -> None:
    model, chosen = Around(Scale()).eval(), backend("Scale", "WritingScale", inner)
    assert_equals_float64(model, compiled(model, chosen), x())
    assert lowering(chosen).clones == ("x",)
    assert "clones x: the kernel overwrites it" in " ".join(str(chosen.report).split())


def test_an_input_that_only_the_probe_has_seen_overwritten_is_copied_too() -> None:
    model, trusting = Around(Plus()), backend("Plus", "WritingLater")
    compiled(model, trusting)(x())
    assert lowering(trusting).clones == ()
    torch.compiler.reset()
    probing = backend("Plus", "WritingLater", verify="probe")
    assert_equals_float64(model, compiled(model, probing), x())
    assert lowering(probing).clones == ("x",)


# --- what is not used, and what goes wrong ------------------------------------------------------------------------------------------------


def test_a_kernel_that_cannot_be_used_is_a_miss_with_evidence() -> None:
    model, chosen = Around(Plus()), backend("Plus", "Raising")
    assert_equals_float64(model, compiled(model, chosen), x())
    miss = chosen.report.calls[0].miss
    assert miss.code == "crash"
    assert "out of shared memory" in miss.message


@INNERS
@pytest.mark.parametrize("dynamic", [False, True])
def test_an_output_with_other_strides_is_copied_into_the_layers_and_the_report_says_so(inner: str, dynamic: bool) -> None:
    model, chosen = Around(Plus()), backend("Plus", "Transposing", inner)
    run = torch.compile(model, backend=chosen, fullgraph=True, dynamic=dynamic)
    assert_equals_float64(model, run, x())
    assert lowering(chosen).relaid == (0,)
    assert "copies output 0 into the layer's memory layout" in " ".join(str(chosen.report).split())
    layer, alone = Plus(), backend("Plus", "Transposing", inner)
    output = torch.compile(layer, backend=alone, fullgraph=True, dynamic=dynamic)(x())
    assert [call.status for call in alone.report.calls] == ["rewritten"]
    assert output.stride() == layer(x()).stride()


def test_without_opaque_kernels_and_without_fallback_it_is_an_error() -> None:
    chosen = backend("Norm", "OperatorNorm", opaque=False, use_fallback=False)
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed) as caught:
        compiled(Around(Norm()), chosen)(x())
    assert isinstance(caught.value.inner_exception, NoKernelError)
    assert "norm has no fake implementation" in str(caught.value)


def test_a_kernel_that_fails_later_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, chosen = Around(Norm()), backend("Norm", "OperatorNorm")
    run = compiled(model, chosen)
    run(x())
    layers = sys.modules["fxtest_opaque"].layers
    monkeypatch.setattr(layers.Norm, "apply", lambda *arguments: 1 / 0)
    with pytest.raises(KernelRuntimeError, match=r"opaque:OperatorNorm failed at layer#0"):
        run(x())


def test_a_second_derivative_through_the_kernels_own_backward_is_a_clear_error() -> None:
    model, chosen = Norm(), backend("Norm", "OperatorNorm", lambda gm, _: gm.forward)
    values = x()
    (gradient,) = torch.autograd.grad(compiled(model, chosen)(values).sin().sum(), values, create_graph=True)
    with pytest.raises(FxKernelsError, match="cannot be differentiated again"):
        gradient.sum().backward()


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="backward= is 'fallback' or 'recompute', not 'none'"):
        hubkernels(backward="none")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="opaque= is True or False"):
        hubkernels(opaque="yes")  # type: ignore[arg-type]


# --- threads, copies, processes -----------------------------------------------------------------------------------------------------------


def test_two_threads_run_one_compiled_model() -> None:
    model, chosen = Around(Norm()), backend("Norm", "OperatorNorm")
    run = compiled(model, chosen)
    run(x()).sum().backward()
    model.zero_grad()
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            generator = torch.Generator().manual_seed(seed)
            for _ in range(20):
                values = torch.randn(6, 8, generator=generator).requires_grad_()
                expected = torch.autograd.grad(model(values).sin().sum(), values)
                torch.testing.assert_close(torch.autograd.grad(run(values).sin().sum(), values), expected)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda chosen: pickle.loads(pickle.dumps(chosen))], ids=["deepcopy", "pickle"])
def test_a_duplicate_of_the_backend_keeps_its_options(duplicate: Callable[[Any], Any]) -> None:
    chosen = duplicate(backend("Norm", "InferenceNorm", backward="recompute"))
    model = Around(Norm())
    assert_equals_float64(model, compiled(model, chosen), x())
    assert lowering(chosen).name == "opaque"


def test_equal_calls_share_their_operators_and_others_do_not() -> None:
    def calls(model: nn.Module) -> list[Any]:
        chosen = backend("Norm", "OperatorNorm")
        torch.compile(model, backend=chosen, fullgraph=True)(x())
        (graph,) = chosen.report.graphs
        return [node.target.operators for node in graph.graph.nodes if getattr(node.target, "operators", None)]

    other = Norm()
    other.eps = 1e-3
    first, second, third = calls(nn.Sequential(Norm(), Norm(), other))
    assert (first.names, first.key) == (second.names, second.key)
    assert first.names == third.names
    assert first.key != third.key


SCRIPT = Path(__file__).with_name("opaque_process.py")


def in_process(directory: Path, cache: Path, seed: str) -> dict[str, Any]:
    """What a fresh process that compiles a model with the repository in `directory` prints."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTHONHASHSEED": seed, "TORCHINDUCTOR_FX_GRAPH_CACHE": "1"}
    done = subprocess.run([sys.executable, SCRIPT, directory], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_another_process_has_the_same_names_and_hits_inductors_cache_until_the_kernel_changes(tmp_path: Path) -> None:
    directory = copy_repository("opaque", tmp_path, "fxtest_opaque_elsewhere")
    first = in_process(directory, tmp_path / "cache", "1")
    second = in_process(directory, tmp_path / "cache", "2")
    assert (first["operators"], first["hits"]) == (second["operators"], 0)
    assert second["hits"] > 0
    layers = directory / "build" / UNIVERSAL / "layers.py"
    layers.write_text(layers.read_text() + "\n# another commit\n")
    third = in_process(directory, tmp_path / "cache", "3")
    assert third["operators"] != first["operators"]
    assert third["hits"] == 0


def test_a_compiled_graph_in_a_process_that_does_not_know_its_kernel_says_so() -> None:
    model, chosen = Around(Norm()), backend("Norm", "OperatorNorm")
    compiled(model, chosen)(x())
    (graph,) = chosen.report.graphs
    (call,) = [node.target for node in graph.graph.nodes if getattr(node.target, "operators", None)]
    call.operators.key = "0123"
    with pytest.raises(FxKernelsError, match="kernel entry '0123', which this process does not know"):
        call(torch.randn(6, 8), torch.ones(8))


def test_the_named_backend_takes_the_options() -> None:
    from fxkernels import use_kernel_mapping

    model = Around(Norm())
    with use_kernel_mapping({"Norm": {"cpu": repository("opaque", "InferenceNorm")}}):
        run = torch.compile(model, backend="hubkernels", options={"inner": "aot_eager", "backward": "recompute"}, fullgraph=True)
        assert_equals_float64(model, run, x())
    assert executions("opaque")["norm"] >= 1


def test_an_error_names_all_calls_that_share_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    # With the eps of the other tests, calls of their models would share it too.
    model, chosen = nn.Sequential(Norm(eps=1e-2), Norm(eps=1e-2)), backend("Norm", "OperatorNorm")
    run = compiled(model, chosen)
    run(x())
    monkeypatch.setattr(sys.modules["fxtest_opaque"].layers.Norm, "apply", lambda *arguments: 1 / 0)
    with pytest.raises(KernelRuntimeError, match=r"failed at 0#0 or 1#0\n"):
        run(x())
