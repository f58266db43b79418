"""What holds for every fusion that ships: it is found and rewritten, equals the model's own operations, and changes nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fusion_cases import CASES, FusionCase, assert_equal_steps, stepped
from tolerances import tolerance
from torch import fx, nn
from torch.utils.checkpoint import checkpoint

from fxkernels import KernelizeFallback, RepositoryError, hubkernels
from fxkernels.builtin import builtin_repository
from fxkernels.fusions import SHIPPED

TRAINED = {name: case for name, case in CASES.items() if case.is_trained}
ONE_OF_EACH = {case.layer_name: case for case in reversed(TRAINED.values())}
EACH_TRAINED = pytest.mark.parametrize("case", TRAINED.values(), ids=list(TRAINED))
EACH = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def mapped(*layer_names: str) -> dict[str, Any]:
    return {name: {"cpu": builtin_repository(name)} for name in layer_names}


@EACH_TRAINED
@DTYPES
def test_it_equals_the_models_operations_with_equal_gradients(case: FusionCase, dtype: torch.dtype) -> None:
    model, inputs = case.prepared(dtype)
    backend = hubkernels(inner="aot_eager", mapping=mapped(case.layer_name))
    found = stepped(torch.compile(model, backend=backend, fullgraph=True), model, inputs)
    assert [call.layer_name for call in backend.report.rewritten] == [case.layer_name], str(backend.report)
    assert_equal_steps(found, stepped(model, model, inputs), dtype)


@EACH_TRAINED
def test_it_is_admitted_by_the_probe(case: FusionCase) -> None:
    model, inputs = case.prepared(torch.float32)
    backend = hubkernels(inner="eager", mapping=mapped(case.layer_name), verify="probe")
    found = stepped(torch.compile(model, backend=backend, fullgraph=True), model, inputs)
    assert [call.layer_name for call in backend.report.rewritten] == [case.layer_name], str(backend.report)
    assert_equal_steps(found, stepped(model, model, inputs), torch.float32)


@EACH
@DTYPES
def test_in_eval_mode_without_gradients_it_equals_the_models_operations_and_is_admitted(case: FusionCase, dtype: torch.dtype) -> None:
    model, inputs = case.prepared(dtype)
    model.eval()
    backend = hubkernels(inner="eager", mapping=mapped(case.layer_name), verify="probe")
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend=backend)(*inputs), model(*inputs), **tolerance(dtype, depth=2))
    assert [call.layer_name for call in backend.report.rewritten] == [case.layer_name], str(backend.report)


def test_experts_keep_their_operations_in_training() -> None:
    model, inputs = CASES["experts"].prepared(torch.bfloat16)
    backend = hubkernels(inner="eager", mapping=mapped("experts"))
    assert_equal_steps(stepped(torch.compile(model, backend=backend), model, inputs), stepped(model, model, inputs), torch.bfloat16)
    assert {decision.status for call in backend.report.calls for decision in call.decisions} == {"missed"}


@EACH_TRAINED
def test_under_autocast_it_equals_the_models_operations(case: FusionCase) -> None:
    model, inputs = case.prepared(torch.float32)
    backend = hubkernels(inner="aot_eager", mapping=mapped(case.layer_name))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = stepped(torch.compile(model, backend=backend), model, inputs)
        assert_equal_steps(found, stepped(model, model, inputs), torch.bfloat16)
    assert len(backend.report.rewritten) == 1, str(backend.report)


@EACH_TRAINED
def test_under_checkpointing_it_equals_the_models_operations(case: FusionCase) -> None:
    model, inputs = case.prepared(torch.float32)
    backend = hubkernels(inner="aot_eager", mapping=mapped(case.layer_name))
    run = torch.compile(lambda *args: checkpoint(model, *args, use_reentrant=False), backend=backend, fullgraph=True)
    assert_equal_steps(stepped(run, model, inputs), stepped(model, model, inputs), torch.float32)
    assert len(backend.report.rewritten) == 1, str(backend.report)


# A case of each layer name: its other spellings have the same kernel, and take minutes together.
@pytest.mark.parametrize("case", ONE_OF_EACH.values(), ids=list(ONE_OF_EACH))
def test_one_graph_serves_several_sizes(case: FusionCase) -> None:
    model, _ = case.prepared(torch.float32)
    backend = hubkernels(inner="aot_eager", mapping=mapped(case.layer_name))
    run = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    for length in (5, 7, 12):
        inputs = case.prepared(torch.float32, length)[1]
        assert_equal_steps(stepped(run, model, inputs), stepped(model, model, inputs), torch.float32)
    (call,) = backend.report.rewritten
    assert len(call.decisions) == 1, str(backend.report)


class Kept:
    """An inner compiler that keeps the code of the graphs that it gets."""

    def __init__(self) -> None:
        self.code: list[str] = []

    def __call__(self, gm: fx.GraphModule, _: list[Any]) -> Callable[..., Any]:
        self.code.append(gm.print_readable(print_output=False))
        return gm.forward


class Nothing:
    """A repository without a kernel."""

    repo_id, layer_name = "nothing", "nothing"

    def load(self) -> type[nn.Module]:
        raise RepositoryError("this repository only makes a fusion be looked for")


@EACH
def test_where_it_is_not_mapped_or_misses_the_graph_is_node_for_node_what_it_was(case: FusionCase) -> None:
    model, inputs = case.prepared(torch.float32)
    own, unmapped, missed = Kept(), Kept(), Kept()
    expected = torch.compile(model, backend=own)(*inputs)
    nothing = {fusion.layer_name: {"cpu": Nothing()} for fusion in SHIPPED}
    others = {name: each for name, each in nothing.items() if name != case.layer_name}
    for kept, mapping in ((unmapped, {}), (unmapped, others), (missed, nothing)):
        torch._dynamo.reset()
        backend = hubkernels(inner=kept, mapping=mapping, use_fallback=KernelizeFallback.ALL)
        assert torch.equal(torch.compile(model, backend=backend)(*inputs), expected)
        assert not backend.report.rewritten
    assert {*unmapped.code, *missed.code} == {*own.code}


def test_every_shipped_fusion_has_a_case() -> None:
    assert {case.layer_name for case in CASES.values()} == {fusion.layer_name for fusion in SHIPPED}
