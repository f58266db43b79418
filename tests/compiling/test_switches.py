"""Dynamo's own switches mean with kernels what they mean without: stances, disable, reset, the recompile limit, compiled autograd."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_repositories import executions, reset_executions
from kernel_rows import ROWS, NormModel, Row, exactly
from layers import Norm
from tolerances import tolerance
from torch import nn
from torch._dynamo.utils import counters  # private: nothing public says how often Dynamo has compiled

import fxkernels

pytestmark = pytest.mark.slow

COUNTED = ROWS["operator with a backward"]  # counts its executions under every compiler


@pytest.fixture(autouse=True)
def fresh_counters() -> None:
    reset_executions("norms")


def runs() -> int:
    return executions("norms")["CountedRMSNorm"]


def by_backend(model: nn.Module) -> Callable[..., Any]:
    return torch.compile(model, backend=COUNTED.backend("aot_eager"))


def by_kernelize(model: nn.Module) -> Callable[..., Any]:
    return fxkernels.kernelize(model, mapping=COUNTED.mapping, capture="dynamo")


WAYS = pytest.mark.parametrize("kernels_in", [by_backend, by_kernelize])


# --- torch.compiler.set_stance ----------------------------------------------------------------------------------------------------------


@WAYS
def test_force_eager_runs_the_original_and_compiles_nothing(kernels_in: Callable[..., Any], x: torch.Tensor) -> None:
    model = NormModel().eval()
    run = kernels_in(model)
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(run(x), model(x))
    assert runs() == 0
    torch.testing.assert_close(run(x), model(x))
    assert runs() == 2


@WAYS
def test_force_eager_runs_the_original_even_where_a_graph_exists(kernels_in: Callable[..., Any], x: torch.Tensor) -> None:
    model = NormModel().eval()
    run = kernels_in(model)
    run(x)
    reset_executions("norms")
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(run(x), model(x))
    assert runs() == 0


@WAYS
def test_eager_on_recompile_keeps_kernels_for_inputs_that_have_a_graph(kernels_in: Callable[..., Any], x: torch.Tensor) -> None:
    model = NormModel().eval()
    run = kernels_in(model)
    run(x)
    with torch.compiler.set_stance("eager_on_recompile"):
        reset_executions("norms")
        run(x)
        assert runs() == 2
        another_rank = torch.randn(2, 3, 8)
        assert torch.equal(run(another_rank), model(another_rank))
        assert runs() == 2


@WAYS
def test_fail_on_recompile_fails_for_new_inputs_only(kernels_in: Callable[..., Any], x: torch.Tensor) -> None:
    run = kernels_in(NormModel().eval())
    run(x)
    with torch.compiler.set_stance("fail_on_recompile"):
        reset_executions("norms")
        run(x)
        assert runs() == 2
        with pytest.raises(RuntimeError, match="fail_on_recompile"):
            run(torch.randn(2, 3, 8))


def test_a_forced_backend_gets_the_graphs_that_it_would_get_without_ours(x: torch.Tensor) -> None:
    model = NormModel().eval()
    graphs: dict[str, list[str]] = {}

    def keeping(name: str) -> Callable[..., Any]:
        return lambda gm, _: graphs.update({name: [node.name for node in gm.graph.nodes]}) or gm.forward

    with torch.compiler.set_stance("default", force_backend=keeping("forced")):
        assert torch.equal(by_backend(model)(x), model(x))
    assert runs() == 0
    torch._dynamo.reset()
    torch.compile(model, backend=keeping("plain"))(x)
    assert graphs["forced"] == graphs["plain"]


def test_a_forced_backend_gets_the_rewritten_graphs_of_a_kernelized_model(x: torch.Tensor) -> None:
    model, targets = NormModel().eval(), []

    def theirs(gm: torch.fx.GraphModule, _: Any) -> Any:
        targets.extend(getattr(node.target, "__name__", "") for node in gm.graph.nodes)
        return gm.forward

    with torch.compiler.set_stance("default", force_backend=theirs):
        torch.testing.assert_close(by_kernelize(model)(x), model(x))
    assert runs() == 2
    assert len([name for name in targets if name.startswith("kernel_")]) == 2


# --- torch.compiler.disable -------------------------------------------------------------------------------------------------------------


@WAYS
def test_a_disabled_layer_keeps_its_original_and_the_report_says_why(kernels_in: Callable[..., Any], x: torch.Tensor) -> None:
    model = NormModel().eval()
    expected = model(x)
    model.first = torch._dynamo.disable(model.first)  # type: ignore[assignment]
    run = kernels_in(model)
    torch.testing.assert_close(run(x), expected)
    assert runs() == 1
    report = fxkernels.last_report()
    assert [call.path for call in report.rewritten] == ["second"]


class HalfDisabled(NormModel):
    """The first half is disabled for Dynamo."""

    @torch.compiler.disable
    def half(self, x: torch.Tensor) -> torch.Tensor:
        return super().half(x)


def test_what_a_disabled_method_calls_keeps_its_original(x: torch.Tensor) -> None:
    model = HalfDisabled().eval()
    torch.testing.assert_close(by_backend(model)(x), model(x))
    assert runs() == 1


def test_a_kernelized_layer_that_a_disabled_method_calls_compiles_itself_as_any_compiled_module_there(x: torch.Tensor) -> None:
    model = HalfDisabled().eval()
    torch.testing.assert_close(by_kernelize(model)(x), model(x))
    assert runs() == 2


# --- reset ------------------------------------------------------------------------------------------------------------------------------


@WAYS
def test_after_a_reset_everything_is_compiled_anew(kernels_in: Callable[..., Any], x: torch.Tensor) -> None:
    model = NormModel().eval()
    run = kernels_in(model)
    for _ in range(2):
        counters.clear()
        torch.testing.assert_close(run(x), model(x))
        run(x)
        assert counters["stats"]["unique_graphs"] == 1
        torch._dynamo.reset()
    assert runs() == 8
    assert len(fxkernels.last_report().rewritten) == 2


# --- the recompile limit -----------------------------------------------------------------------------------------------------------------


@WAYS
def test_the_recompile_limit_falls_back_to_the_original_and_is_a_warning_in_the_report(
    kernels_in: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = NormModel().eval()
    run = kernels_in(model)
    with torch._dynamo.config.patch(recompile_limit=1), caplog.at_level(logging.WARNING, "fxkernels"):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            x = torch.ones(3, 8, dtype=dtype)
            model.to(dtype)
            torch.testing.assert_close(run(x), model(x))
    assert runs() == 2 or kernels_in is by_kernelize  # whose layers compile themselves where the frame around them does not
    assert "recompile limit" in caplog.text
    report = fxkernels.last_report()
    assert any("recompile limit was reached in 'forward'" in note for note in report.notes)
    assert "recompile limit" in str(report)


def test_the_recompile_limit_as_an_error_stays_one(x: torch.Tensor) -> None:
    run = by_backend(NormModel().eval())
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
        run(x)
        with pytest.raises(Exception, match="recompile_limit"):
            run(torch.ones(3, 8, dtype=torch.float64))


# --- compiled autograd ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_compiled_autograd_gives_the_gradients_of_the_reference(row: Row, inner: str, training: bool, x: torch.Tensor) -> None:
    model = NormModel().train(training)
    reference = exactly(model)
    run = torch.compile(model, backend=row.backend(inner))
    x.requires_grad_()
    wide = x.detach().double().requires_grad_()
    reference(wide).square().mean().backward()
    with torch._dynamo.config.patch(compiled_autograd=True):

        @torch.compile(backend=row.backend(inner))
        def step() -> torch.Tensor:
            loss = run(x).square().mean()
            loss.backward()
            return loss

        step()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.double(), wide.grad, **tolerance(x.dtype, depth=4))
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, **tolerance(x.dtype, depth=8))  # type: ignore[union-attr]


# --- a layer by itself ------------------------------------------------------------------------------------------------------------------


def test_a_layer_compiled_by_itself_inside_an_uncompiled_model_runs_its_kernel(x: torch.Tensor) -> None:
    model = nn.Sequential(Norm(), nn.Linear(8, 8), Norm()).eval()
    expected = model(x)
    model[0].compile(backend=COUNTED.backend("aot_eager"))
    torch.testing.assert_close(model(x), expected)
    assert runs() == 1
