"""Calls of symbolically kernelized models are decided when they happen, by the same gates as those of captured ones."""

from __future__ import annotations

import copy
import logging
import pickle
from typing import Any

import pytest
import torch
from kernel_repositories import executions, repository
from layers import Block, Norm
from torch import fx, nn

import fxkernels
from fxkernels.admission.worker import WORKER
from fxkernels.errors import NoKernelError
from fxkernels.report.model import GraphDecision

X = torch.randn(3, 8)


def kernelized(layer: str = "RMSNorm", model: nn.Module | None = None, **options: Any) -> Any:
    mapping = {"RMSNorm": {"cpu": repository("norms", layer)}}
    return fxkernels.kernelize(Block() if model is None else model, mapping=mapping, capture="symbolic", **options)


def newest(model: Any) -> GraphDecision:
    (call,) = model.report.calls
    return call.decisions[-1]


def test_a_model_that_torch_fx_traces_is_a_graph_module_also_where_kernels_are_probed() -> None:
    model = Block()
    mapping = {"RMSNorm": {"cpu": repository("norms", "RMSNorm")}}
    assert isinstance(fxkernels.kernelize(model, mapping=mapping, verify="probe"), fx.GraphModule)


def test_the_first_call_probes_and_the_report_has_gates_and_evidence() -> None:
    model = kernelized(verify="probe")
    before = executions("norms")["RMSNorm"]
    torch.testing.assert_close(model(X), fxkernels.original(model)(X))
    assert executions("norms")["RMSNorm"] == before + 1
    decision = newest(model)
    assert decision.evidence is not None
    assert decision.evidence.how == "probed"
    assert decision.inputs[0] == "hidden_states: f32[3, 8]"
    assert [gate.outcome for gate in decision.candidates[0].gates if gate.name == "admission"] == ["passed"]


def test_a_kernel_that_shows_itself_wrong_is_not_run_and_a_warning_says_why_once(caplog: pytest.LogCaptureFixture) -> None:
    model = kernelized("DetachedRMSNorm", verify="probe")
    before = executions("norms")["DetachedRMSNorm"]
    for _ in range(2):
        model(X).sum().backward()
    assert executions("norms")["DetachedRMSNorm"] == before
    (call,) = model.report.calls
    assert (call.status, call.miss.code) == ("missed", "gradient")
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING and "norm#0" in record.message]
    assert len(warnings) == 1
    assert "detached" in warnings[0]


def test_without_fallback_a_wrong_kernel_is_an_error_of_the_call() -> None:
    model = kernelized("DetachedRMSNorm", verify="probe", use_fallback=False)
    with pytest.raises(NoKernelError, match="norm#0"):
        model(X)


def test_each_form_of_call_is_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = kernelized(verify="off")
    keeper = model.norm._fxkernels_gate.keeper
    asked: list[Any] = []
    decide = keeper.decide
    monkeypatch.setattr(keeper, "decide", lambda keys, layer, args, kwargs: asked.append(args) or decide(keys, layer, args, kwargs))
    for _ in range(3):
        model(X)
        with torch.no_grad():
            model(X)
        with torch.autocast("cpu"):
            model(X)
    assert len(asked) == 3
    model.eval()(X)
    model.to(torch.float64)(X.double())
    assert len(asked) == 5


def test_a_changed_constant_of_the_layer_is_decided_anew() -> None:
    model = kernelized(verify="off")
    model(X)
    model.norm.variance_epsilon = 1.0
    model(X)
    assert any("variance_epsilon" in str(decision.before) or "1.0" in str(decision.before) for decision in model.report.calls[0].decisions)
    plain = fxkernels.original(model)
    plain.norm.variance_epsilon = 1.0
    torch.testing.assert_close(model(X), plain(X))


def test_a_size_that_changes_becomes_dynamic_and_costs_no_further_capture() -> None:
    model = kernelized(verify="off")
    for rows in range(2, 12):
        torch.testing.assert_close(model(x := torch.randn(rows, 8)), fxkernels.original(model)(x))
    assert len(model.report.calls[0].decisions) == 2
    assert "s0" in newest(model).inputs[0]


def test_layers_of_one_class_share_what_was_captured() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Norm(), Norm()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x.requires_grad_()))

    model = kernelized(model=Twice(), verify="off")
    model(X.clone())
    inputs = [call.decisions for call in model.report.calls]
    assert all(decisions == inputs[0] for decisions in inputs)


def test_example_arguments_are_decided_at_once_without_running_a_kernel() -> None:
    before = executions("norms")["RMSNorm"]
    model = kernelized(verify="off", example_args=(X,))
    assert executions("norms")["RMSNorm"] == before
    assert newest(model).inputs[0] == "hidden_states: f32[3, 8]"


def test_state_that_a_capture_must_not_see_stays_as_it_is() -> None:
    plain, seen = Block(), []
    plain.norm.register_forward_hook(lambda *_: seen.append("hook"))
    model = kernelized(model=plain, verify="off")
    model(X)
    assert seen == ["hook"]
    assert all(type(parameter) is nn.Parameter for parameter in plain.parameters())
    model(X).sum().backward()
    assert plain.norm.weight.grad is not None


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"])
def test_a_copy_decides_for_itself(duplicate: Any) -> None:
    model = kernelized(verify="off")
    model(X)
    twin = duplicate(model)
    assert not newest(twin).gates
    torch.testing.assert_close(twin(X), model(X))
    assert newest(twin).gates
    assert twin.norm._fxkernels_gate.keeper is not model.norm._fxkernels_gate.keeper


@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_torch_compile_gets_one_graph_in_which_the_kernel_was_decided_for(inner: str) -> None:
    model = kernelized(verify="off")
    compiled = torch.compile(model, backend=inner, fullgraph=True)
    torch.testing.assert_close(compiled(X), fxkernels.original(model)(X))
    decision = newest(model)
    assert (decision.graph, decision.status, decision.training) == (1, "rewritten", True)
    assert decision.gates
    assert (decision.lowering is not None) == (inner != "eager")


def test_torch_compile_meets_the_original_where_the_kernel_is_refused() -> None:
    model = kernelized("DetachedRMSNorm", verify="probe")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(X).sum().backward()
    assert newest(model).misses[0].code == "gradient"


def test_transforms_and_traces_around_a_call_do_not_disturb_its_decision() -> None:
    x = X[None].expand(2, 3, 8)
    plain = Block()
    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(kernelized(model=plain, verify="off"))(x), plain(x))
    model = kernelized(model=plain, verify="off")
    torch.testing.assert_close(torch.func.grad(lambda x: model(x).sum())(X), torch.func.grad(lambda x: plain(x).sum())(X))
    assert newest(model).gates
    traced = fx.experimental.proxy_tensor.make_fx(model := kernelized(model=plain, verify="off"))(X)
    torch.testing.assert_close(traced(X), plain(X))
    assert newest(model).gates


def test_strict_does_without_kernels_that_cannot_be_probed() -> None:
    model = kernelized(verify="strict")
    model(torch.empty(0, 8))
    assert newest(model).misses[0].code == "unprobed"


def test_a_failing_layer_raises_its_own_error() -> None:
    model = kernelized(verify="off")
    with pytest.raises(RuntimeError, match="must match the size"):
        model(torch.randn(3, 5))


def test_no_process_is_started_unless_somebody_wants_probes() -> None:
    starts = WORKER.starts
    kernelized(verify="off")(X)
    assert WORKER.starts == starts
