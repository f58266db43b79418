"""Run-time counters: what ran, not only what was rewritten."""

from __future__ import annotations

import copy
import pickle
import shutil

import pytest
import torch
from kernel_repositories import executions, repository, reset_executions
from layers import Stack
from torch.utils.checkpoint import checkpoint

from fxkernels import hubkernels, kernelize

HAS_COMPILER = shutil.which("g++") is not None or shutil.which("clang++") is not None
INDUCTOR = pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.skipif(not HAS_COMPILER, reason="Inductor needs a C++ compiler")])
INNER = ["eager", "aot_eager", INDUCTOR]


def mapping(layer: str):
    return {"RMSNorm": {"cpu": repository("norms", layer)}}


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 8)


@pytest.mark.parametrize("inner", INNER)
def test_kernels_and_original_layers_are_counted_once_per_run_under_every_compiler(x, inner):
    backend = hubkernels(inner=inner, mapping=mapping("CountedRMSNorm"), exclude="blocks.0.*", counters=True)
    model = torch.compile(Stack(), backend=backend)
    reset_executions("norms")
    with torch.no_grad():
        for _ in range(3):
            model(x)
    assert dict(backend.counters) == {"blocks.0.norm#0": {"reference": 3}, "blocks.1.norm#0": {"kernel": 3}, "norm#0": {"kernel": 3}}
    assert executions("norms")["CountedRMSNorm"] == 2 * 3


@pytest.mark.parametrize("inner", INNER)
def test_recomputed_gradients_are_counted_once_per_backward_under_every_compiler(x, inner):
    backend = hubkernels(inner=inner, mapping=mapping("InferenceRMSNorm"), backward="recompute", counters=True)
    model = torch.compile(Stack(1), backend=backend)
    model(x)
    for _ in range(2):
        model(x).sum().backward()
    assert backend.counters["norm#0"] == {"kernel": 3, "recomputed": 2}


def test_a_gradient_that_turns_out_to_be_cut_is_counted_as_recomputed(x):
    model = kernelize(Stack(1), mapping=mapping("DetachedRMSNorm"), counters=True)
    model(x).sum().backward()
    assert model.report.ran["norm#0"] == {"kernel": 1, "recomputed": 1}


def test_counts_go_on_over_graphs_that_are_captured_again(x):
    model = kernelize(Stack(1), mapping=mapping("InferenceRMSNorm"), counters=True)
    model.eval()(x)
    model(x)
    model.train()(x)
    assert model.report.ran["norm#0"] == {"kernel": 2, "reference": 1}


def test_the_forward_of_a_checkpoint_counts_once(x):
    model = kernelize(Stack(2, lambda block, x: checkpoint(block, x, use_reentrant=False)), mapping=mapping("RMSNorm"), counters=True)
    model(x).sum().backward()
    assert {key: dict(found) for key, found in model.report.ran.items()} == {
        "blocks.0.norm#0": {"kernel": 1},
        "blocks.1.norm#0": {"kernel": 1},
        "norm#0": {"kernel": 1},
    }


def test_a_kernelized_model_that_somebody_else_compiles_counts_too(x):
    model = kernelize(Stack(1), mapping=mapping("RMSNorm"), counters=True)
    compiled = torch.compile(model, backend="aot_eager")
    for _ in range(2):
        compiled(x)
    assert model.report.ran["norm#0"] == {"kernel": 2}


def test_without_counters_the_compiled_graph_is_handed_on_as_it_is(x):
    made = []

    def inner(gm, example_inputs):
        made.append(gm.forward)
        return made[-1]

    backend = hubkernels(inner=inner, mapping=mapping("RMSNorm"))
    assert backend(torch.fx.symbolic_trace(Stack().blocks[0].linear), [x]) is made[0]
    assert backend.counters is None
    assert backend.report.ran is None


def test_counters_start_empty_and_read_as_a_table(x):
    model = kernelize(Stack(1), mapping=mapping("RMSNorm"), counters=True)
    assert str(model.report.ran) == "no layer call has run yet"
    model(x)
    assert str(model.report.ran).splitlines() == ["blocks.0.norm#0  kernel 1", "norm#0           kernel 1"]


def test_a_copy_counts_for_itself_and_an_unpickled_report_has_no_counters(x):
    model = kernelize(Stack(1), mapping=mapping("RMSNorm"), counters=True)
    model(x)
    twin = copy.deepcopy(model)
    twin(x)
    twin(x)
    assert (model.report.ran["norm#0"], twin.report.ran["norm#0"]) == ({"kernel": 1}, {"kernel": 2})
    assert pickle.loads(pickle.dumps(model.report)).ran is None


def test_calls_of_a_graph_module_are_counted(x):
    model = kernelize(Stack().blocks[0], mapping=mapping("RMSNorm"), capture="symbolic", counters=True)
    model(x)
    assert str(model.report.ran) == "norm#0  kernel 1"


def test_counters_are_on_or_off():
    with pytest.raises(TypeError, match="counters= is True or False, not 'yes'"):
        hubkernels(counters="yes")
