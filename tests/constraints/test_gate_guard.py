"""Constraints end to end: the kernels here are wrong for calls that do not meet them, and the numbers stay right."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from corpus import build, tensors
from kernel_repositories import FOLDER, executions, repository, reset_executions
from layers import Stack
from torch._dynamo.utils import counters  # private: nothing public says how often Dynamo has compiled

from fxkernels import LocalLayerRepository, explain, hubkernels, kernelize, use_kernel_mapping

FOURS = {"RMSNorm": {"cpu": repository("constrained", "FoursRMSNorm")}}
PAIRS_OF_12 = {
    "RMSNorm": {"cpu": LocalLayerRepository(FOLDER / "constrained", layer_name="PairsRMSNorm", when="dim(hidden_states, 1) == 12")}
}
LENGTHS = (12, 10, 16, 9, 20, 1)
INDUCTOR = pytest.param(
    "inductor",
    marks=(
        pytest.mark.slow,
        pytest.mark.skipif(
            shutil.which("g++") is None and shutil.which("clang++") is None, reason="Inductor needs a C++ compiler on the CPU"
        ),
    ),
)


@pytest.fixture(autouse=True)
def fresh_counters() -> None:
    reset_executions("constrained")


@pytest.fixture
def model() -> Stack:
    return Stack(blocks=1).eval()


def ran() -> int:
    """How many calls of kernels there have been since the last time."""
    calls = sum(executions("constrained").values())
    reset_executions("constrained")
    return calls


def per_graph(report: Any, path: str = "norm") -> list[str]:
    """What was decided in each graph."""
    (call,) = [call for call in report.calls if call.path == path]
    return [decision.status for decision in call.decisions]


def compiled(model: torch.nn.Module, mapping: Any, inner: str = "eager", **options: Any) -> tuple[Any, Any]:
    backend = hubkernels(inner=inner, mapping=mapping, verify="off", **options)
    return torch.compile(model, backend=backend, dynamic=True, fullgraph=True), backend


@torch.no_grad()
@pytest.mark.parametrize("inner", ["eager", "aot_eager", INDUCTOR])
def test_a_constraint_that_is_violated_at_run_time_is_decided_anew_and_the_numbers_stay_right(model: Stack, inner: str) -> None:
    run, backend = compiled(model, FOURS, inner)
    for length in LENGTHS:
        x = torch.randn(2, length, 8)
        torch.testing.assert_close(run(x), model(x))
        assert ran() == (2 if length % 4 == 0 else 0)
    assert per_graph(backend.report) == ["rewritten", "missed", "missed"]  # the last one is that of length 1, which torch fixes


@torch.no_grad()
def test_a_kernelized_model_is_decided_anew_too(model: Stack) -> None:
    run = kernelize(model, mapping=FOURS, capture="dynamo", verify="off")
    for length in LENGTHS:
        x = torch.randn(2, length, 8)
        torch.testing.assert_close(run(x), model(x))
        assert ran() == (2 if length % 4 == 0 else 0)
    assert {"rewritten", "missed"} == set(per_graph(run.report))


@torch.no_grad()
@pytest.mark.parametrize("inner", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow), INDUCTOR])
def test_a_constraint_that_fixes_a_size_makes_a_graph_for_that_size(model: Stack, inner: str) -> None:
    run, backend = compiled(model, PAIRS_OF_12, inner)
    for length in (11, 12, 9, 13, 12):
        x = torch.randn(2, length, 8)
        torch.testing.assert_close(run(x), model(x))
        assert ran() == (2 if length == 12 else 0)
    assert per_graph(backend.report) == ["missed", "rewritten"]


@torch.no_grad()
def test_with_miss_there_is_one_graph_and_no_kernel(model: Stack) -> None:
    run, backend = compiled(model, FOURS, on_depends="miss")
    for length in (12, 10, 16):
        x = torch.randn(2, length, 8)
        torch.testing.assert_close(run(x), model(x))
    assert ran() == 0
    assert per_graph(backend.report) == ["missed"]
    assert {miss.code for call in backend.report.calls for miss in call.decisions[0].misses} == {"dynamic_shape"}


@torch.no_grad()
def test_static_sizes_are_judged_without_a_guard(model: Stack) -> None:
    counters.clear()
    static = torch.compile(model, backend=hubkernels(inner="eager", mapping=FOURS, verify="off"), dynamic=False)
    for length in (12, 10, 12):
        x = torch.randn(2, length, 8)
        torch.testing.assert_close(static(x), model(x))
    assert ran() == 4
    assert counters["stats"]["unique_graphs"] == 2


@torch.no_grad()
def test_a_kernel_that_is_refused_for_something_else_leaves_no_guard_behind(model: Stack) -> None:
    other = LocalLayerRepository(FOLDER / "norms", layer_name="Float32RMSNorm", when="dim(hidden_states, 1) % 4 == 0")
    run, backend = compiled(model.half(), {"RMSNorm": {"cpu": other}})
    for length in (12, 10, 16):
        run(torch.randn(2, length, 8, dtype=torch.float16))
    assert per_graph(backend.report) == ["missed"]
    assert backend.report.calls[0].decisions[0].misses[0].code == "output_metadata"


@torch.no_grad()
@pytest.mark.slow
def test_a_probed_kernel_runs_for_sizes_that_meet_its_constraints_within_what_was_probed(model: Stack) -> None:
    backend = hubkernels(inner="eager", mapping=FOURS, verify="probe")
    run = torch.compile(model, backend=backend, dynamic=True, fullgraph=True)
    for length in (12, 10, 16, 400, 700, 701, 704):
        x = torch.randn(2, length, 8)
        reset_executions("constrained")
        torch.testing.assert_close(run(x), model(x))
        assert (ran() > 0) is (length % 4 == 0)
    # 12 to 512 were probed first, and with 700 it was decided anew.
    assert per_graph(backend.report) == ["rewritten", "missed", "rewritten"]


# --- sizes that are marked as dynamic -----------------------------------------------------------------------------------------------------


def marked(length: int, **limits: int) -> torch.Tensor:
    x = torch.randn(2, length, 8)
    torch._dynamo.mark_dynamic(x, 1, **limits)
    return x


@torch.no_grad()
def test_a_marked_size_may_be_guarded_as_long_as_it_stays_dynamic(model: Stack) -> None:
    run, backend = compiled(model, FOURS)
    for length in (12, 10, 16):
        x = marked(length)
        torch.testing.assert_close(run(x), model(x))
        assert ran() == (2 if length % 4 == 0 else 0)
    assert per_graph(backend.report) == ["rewritten", "missed"]


@torch.no_grad()
def test_a_marked_size_that_would_be_fixed_is_a_miss_and_no_constraint_violation(model: Stack) -> None:
    run, backend = compiled(model, PAIRS_OF_12)
    for length in (12, 10):
        x = marked(length)
        torch.testing.assert_close(run(x), model(x))
    assert ran() == 0
    (decision,) = backend.report.calls[0].decisions
    assert decision.misses[0].code == "dynamic_shape"
    assert "dim(hidden_states, 1) is marked as dynamic" in decision.misses[0].message


@torch.no_grad()
def test_a_size_marked_with_a_range_takes_no_guard_but_one_that_the_range_proves(model: Stack) -> None:
    run, backend = compiled(model, FOURS)
    x = marked(12, min=2, max=64)
    torch.testing.assert_close(run(x), model(x))
    assert backend.report.calls[0].decisions[0].misses[0].code == "dynamic_shape"
    torch._dynamo.reset()
    short = LocalLayerRepository(FOLDER / "constrained", layer_name="PairsRMSNorm", when="dim(hidden_states, 1) <= 64")
    run, backend = compiled(model, {"RMSNorm": {"cpu": short}})
    torch.testing.assert_close(run(x), model(x))
    assert per_graph(backend.report) == ["rewritten"]


# --- a transformers model, and explaining -------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("way", ["backend", "kernelize"])
def test_llama_with_lengths_that_break_the_constraint(way: str) -> None:
    model, _ = build("llama")
    backend = hubkernels(inner="eager", mapping=FOURS, verify="off")
    run = torch.compile(model, backend=backend, dynamic=True) if way == "backend" else kernelize(model, mapping=FOURS, verify="off")
    for length in (12, 10, 16):
        tokens = torch.randint(0, 32, (2, length))
        torch.testing.assert_close(tensors(run(tokens)), tensors(model(tokens)))
        assert (ran() > 0) is (length % 4 == 0)


@torch.no_grad()
def test_explaining_says_which_clause_a_call_does_not_meet_and_runs_nothing(model: Stack) -> None:
    with use_kernel_mapping(FOURS):
        met, broken = (explain(model, torch.randn(2, length, 8)) for length in (12, 10))
    assert ran() == 0
    (candidate,) = met.calls[0].decisions[0].candidates
    assert [gate.note for gate in candidate.gates if gate.name == "constraints"] == ["dim(hidden_states, -2) % 4 == 0"]
    (miss,) = broken.calls[0].decisions[0].misses
    assert miss.code == "shape"
    assert "dim(hidden_states, -2) is 10; it would match with dim(hidden_states, -2) = 12" in miss.message


@torch.no_grad()
@pytest.mark.parametrize(
    ("when", "code"),
    [
        (["unsqueeze_dim == 1", "dim(cos, -1) == dim(q, -1)", "ndim(k) == 4"], None),
        ("dim(query, 0) == 1", "signature"),  # that is what the layer calls it, or another kernel
    ],
)
def test_arguments_of_functions_go_by_the_names_of_the_kernels_parameters(when: Any, code: str | None) -> None:
    model, inputs = build("llama")
    rotary = LocalLayerRepository(FOLDER / "rotary", layer_name="rotary_pos_emb", when=when)
    run = kernelize(model, mapping={"rotary_pos_emb": {"cpu": rotary}}, verify="off")
    run(**inputs)
    decisions = [call.decisions[-1] for call in run.report.calls if call.layer_name == "rotary_pos_emb"]
    assert {decision.misses[0].code if decision.misses else None for decision in decisions} == {code}
