"""The hubkernels backend of torch.compile: its options, its two spellings, and what it hands to the inner compiler."""

from __future__ import annotations

import copy
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernel_repositories import executions, repository, reset_executions
from layers import Norm, Stack, gradients

import fxkernels
from fxkernels import Mode, NoKernelError, hubkernels, register_kernel_mapping, use_kernel_mapping

MAPPING = {"RMSNorm": {"cpu": repository("norms", "RMSNorm")}}
COUNTED = {"RMSNorm": {"cpu": repository("norms", "CountedRMSNorm")}}


@pytest.fixture(autouse=True)
def fresh_counters() -> None:
    reset_executions("norms")


@pytest.fixture
def model() -> Stack:
    return Stack()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 8)


def statuses(report):
    return {call.path: call.status for call in report.calls}


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="Inductor needs a C++ compiler on the CPU")
def test_inductor_compiles_the_kernels_into_the_model_forward_and_backward(model, x):
    expected, expected_gradients = gradients(model, x, list(model.parameters()))
    run = torch.compile(model, backend=hubkernels(mapping=COUNTED), fullgraph=True)
    output, found = gradients(run, x, list(model.parameters()))
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(found, expected_gradients)
    assert executions("norms") == {"CountedRMSNorm": 3, "CountedRMSNorm.backward": 3}


def test_the_name_takes_the_mapping_in_force_when_it_compiles(model, x):
    run = torch.compile(model, backend="hubkernels", options={"inner": "eager"})
    register_kernel_mapping(MAPPING)
    torch.testing.assert_close(run(x), model(x))
    assert executions("norms")["RMSNorm"] == 3


def test_the_value_takes_its_mapping_when_it_is_made(model, x):
    with use_kernel_mapping(MAPPING):
        backend = hubkernels(inner="eager")
    torch.compile(model, backend=backend)(x)
    assert executions("norms")["RMSNorm"] == 3


MADE_AND_USED = """
import torch
from torch._dynamo.symbolic_convert import InliningInstructionTranslator as Tracer
from fxkernels.capture import _torch

def is_observed():
    return vars(Tracer)["inline_call"] is not before

before = vars(Tracer)["inline_call"]
{made}
assert is_observed() is not _torch.INITIALIZES_BACKENDS, "made"
{used}
assert is_observed(), "used"
"""


@pytest.mark.parametrize(
    ("made", "used"),
    [
        ("from fxkernels import hubkernels; backend = hubkernels(mapping={})", "torch.compile(torch.nn.ReLU(), backend=backend)"),
        (
            "from fxkernels.entry_point import compile_graph; torch._dynamo.register_backend(compile_graph, name='named')",
            "torch.compile(torch.nn.ReLU(), backend='named')",
        ),
    ],
    ids=["value", "name"],
)
def test_dynamo_is_told_of_us_when_the_backend_is_used_where_torch_says_when_that_is(made, used):
    subprocess.run([sys.executable, "-c", MADE_AND_USED.format(made=made, used=used)], check=True)


def test_a_kernelized_model_that_somebody_else_compiles_first_runs_its_kernels():
    program = (
        "import sys, torch; from fxkernels import kernelize; sys.path[:0] = sys.argv[1:]\n"
        "from layers import Stack; from kernel_repositories import executions, repository\n"
        "model = kernelize(Stack(), capture='dynamo', mapping={'RMSNorm': {'cpu': repository('norms', 'RMSNorm')}}, verify='off')\n"
        "torch.compile(model, backend='eager')(torch.randn(3, 8))\n"
        "assert executions('norms')['RMSNorm'] == 3"
    )
    subprocess.run([sys.executable, "-c", program, str(Path(__file__).parent)], check=True)


def test_the_graphs_of_one_named_compilation_share_one_report(x):
    model = Stack(around=lambda block, x: (torch._dynamo.graph_break(), block(x))[1])
    with use_kernel_mapping(MAPPING):
        torch.compile(model, backend="hubkernels", options={"inner": "eager"})(x)
    assert len(fxkernels.last_report().rewritten) == 3
    assert len(fxkernels.last_report().graphs) > 1


def test_only_and_exclude_choose_by_module_path(model, x):
    backend = hubkernels(inner="eager", mapping=MAPPING, only="blocks.*", exclude=["blocks.1.*"])
    torch.compile(model, backend=backend)(x)
    assert statuses(backend.report) == {"blocks.0.norm": "rewritten", "blocks.1.norm": "excluded", "norm": "excluded"}


def test_kernel_mode_overrides_the_training_flag_in_the_mapping_only(model, x):
    mapping = {"RMSNorm": {"cpu": {Mode.TRAINING: repository("norms", "RMSNorm"), Mode.INFERENCE: repository("norms", "CountedRMSNorm")}}}
    torch.compile(model.eval(), backend=hubkernels(inner="eager", mapping=mapping, kernel_mode=Mode.TRAINING))(x)
    assert executions("norms") == {"RMSNorm": 3}


def test_a_kernel_that_cannot_be_traced_is_a_miss_for_a_compiler_where_none_may_be_opaque(model, x):
    backend = hubkernels(inner="aot_eager", mapping={"RMSNorm": {"cpu": repository("norms", "UntraceableRMSNorm")}}, opaque=False)
    torch.testing.assert_close(torch.compile(model, backend=backend)(x), model(x))
    assert {call.miss.code for call in backend.report.calls} == {"not_compilable"}


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda backend: pickle.loads(pickle.dumps(backend))], ids=["copy", "deepcopy", "pickle"]
)
def test_a_duplicate_of_the_value_works_like_it(model, x, duplicate):
    run = torch.compile(model, backend=duplicate(hubkernels(inner="eager", mapping=MAPPING)))
    torch.testing.assert_close(run(x), model(x))
    assert executions("norms")["RMSNorm"] == 3


def test_unknown_options_are_an_error_that_lists_those_that_exist(model, x):
    run = torch.compile(model, backend="hubkernels", options={"inner": "eager", "kernels": True})
    with pytest.raises(Exception, match="unknown option 'kernels'.*exclude"):
        run(x)


def test_torch_compiles_mode_goes_to_the_inner_compiler(model, x):
    seen = {}

    def inner(gm, example_inputs, **kwargs):
        seen.update(kwargs)
        return gm.forward

    from torch._dynamo import register_backend

    register_backend(inner, name="fxkernels_test_inner")
    torch.compile(model, backend="hubkernels", mode="max-autotune", options=None)
    run = torch.compile(model, backend=hubkernels(inner="fxkernels_test_inner", mapping=MAPPING), mode="reduce-overhead")
    run(x)
    assert seen == {"mode": "reduce-overhead"}


def test_options_beside_a_value_are_refused(model, x):
    run = torch.compile(model, backend=hubkernels(inner="eager", mapping=MAPPING), options={"only": "norm"})
    with pytest.raises(Exception, match=r"hubkernels\(\.\.\.\)"):
        run(x)


def test_without_fallback_the_compilation_fails_and_names_the_calls(model, x):
    run = torch.compile(model, backend=hubkernels(inner="eager", mapping={}, use_fallback=False))
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed) as caught:
        run(x)
    assert isinstance(caught.value.inner_exception, NoKernelError)
    assert "blocks.0.norm#0" in str(caught.value)


def test_a_callable_can_be_the_inner_compiler(model, x):
    graphs = []

    def inner(gm, example_inputs):
        graphs.append(gm)
        return gm.forward

    torch.compile(model, backend=hubkernels(inner=inner, mapping=MAPPING), fullgraph=True)(x)
    (graph,) = graphs
    assert [getattr(node.target, "__name__", "") for node in graph.graph.nodes].count("kernel_RMSNorm") == 3


def test_a_rewritten_node_keeps_name_module_stack_stack_trace_and_example_value(model, x):
    plain, rewritten = [], []
    torch.compile(model, backend=lambda gm, _: plain.append(gm) or gm.forward)(x)
    torch._dynamo.reset()
    torch.compile(model, backend=hubkernels(inner=lambda gm, _: rewritten.append(gm) or gm.forward, mapping=MAPPING))(x)
    before = {node.name: node for node in plain[0].graph.nodes}
    kernels = [node for node in rewritten[0].graph.nodes if getattr(node.target, "__name__", "") == "kernel_RMSNorm"]
    assert len(kernels) == 3
    for node in kernels:
        old = before[node.name]
        assert [name for name, _ in node.meta["nn_module_stack"].values()] == [name for name, _ in old.meta["nn_module_stack"].values()]
        assert node.meta["stack_trace"] == old.meta["stack_trace"]
        assert node.meta["example_value"].shape == old.meta["example_value"].shape
    rewritten[0].graph.lint()


def test_recompilations_are_those_of_the_eager_backend(x):
    counts = {}
    for name in ("eager", "ours"):
        torch._dynamo.reset()
        model, graphs = Stack(), []
        inner = lambda gm, _, graphs=graphs: graphs.append(gm) or gm.forward  # noqa: E731
        run = torch.compile(model, backend=inner if name == "eager" else hubkernels(inner=inner, mapping={}))
        for size in (3, 3, 4, 5, 6):
            run(torch.randn(size, 8))
        model.eval()
        run(x)
        counts[name] = len(graphs)
    assert counts["eager"] == counts["ours"]


def test_a_training_flag_is_guarded_only_where_a_kernel_is_mapped(x):
    norm, graphs = Norm(), []
    run = torch.compile(norm, backend=hubkernels(inner=lambda gm, _: graphs.append(gm) or gm.forward, mapping={}))
    run(x)
    norm.eval()
    run(x)
    assert len(graphs) == 1
