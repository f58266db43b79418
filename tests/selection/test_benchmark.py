"""``select="measured"`` as a user sees it: through torch.compile, with kernels that are faster or slower than the layer by far."""

from __future__ import annotations

import copy
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_repositories import repository
from layers import Stack
from paced_models import Chain, example, one_thread, paced
from torch._dynamo.exc import BackendCompilerFailed

from fxkernels import Fusion, KernelizeFallback, Layer, hubkernels, use_fusions
from fxkernels.backend import HubKernels
from fxkernels.explaining import dry_run
from fxkernels.options import Options
from fxkernels.report.model import CallReport
from fxkernels.selection import Budget


@pytest.fixture(autouse=True)
def own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FXKERNELS_CACHE", str(tmp_path))
    with one_thread():
        yield tmp_path / "timed"


def run(backend: HubKernels, *, training: bool = False, model: torch.nn.Module | None = None) -> tuple[CallReport, ...]:
    """Compile and call a chain; return what the report says of its calls. The output is that of the chain."""
    torch.compiler.reset()
    torch.manual_seed(0)
    chain = (model or Chain()).train(training)
    x = example()
    with torch.set_grad_enabled(training):
        output = torch.compile(chain, backend=backend, fullgraph=True)(x)
        torch.testing.assert_close(output, chain(x))
        if training:
            output.sum().backward()
    return backend.report.calls


def measuring(*kernels: str, **options: Any) -> HubKernels:
    return hubkernels(**{"inner": "eager", "select": "measured", "mapping": paced(*kernels), **options})


def test_a_kernel_that_is_faster_is_taken_and_the_report_has_both_times() -> None:
    backend = measuring("Quick")
    for call in run(backend):
        assert call.status == "rewritten"
        gate = call.decisions[-1].candidates[-1].gates[-1]
        assert (gate.name, gate.outcome) == ("selection", "passed")
        assert " us instead of " in gate.note
        assert "x (forward, " in gate.note


def test_a_kernel_that_is_slower_is_not_profitable_and_the_layer_itself_runs() -> None:
    for call in run(measuring("Slow")):
        assert call.status == "missed"
        assert call.miss is not None
        assert call.miss.code == "not_profitable"
        assert call.miss.data["kernel_us"] > 1.5 * call.miss.data["original_us"]
        assert "no faster" in call.miss.message


def test_without_a_profitable_kernel_the_compiler_gets_the_graph_that_it_gets_without_us() -> None:
    def graph_for(backend: Callable[[Any], Any]) -> str:
        graphs: list[str] = []

        def compiler(gm: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
            graphs.append(gm.print_readable(print_output=False))
            return gm.forward

        torch.compiler.reset()
        torch.compile(Chain(), backend=backend(compiler), fullgraph=True)(example())
        return graphs[-1]  # what a contest compiles comes before

    assert graph_for(lambda compiler: measuring("Slow", inner=compiler)) == graph_for(lambda compiler: compiler)
    assert graph_for(lambda compiler: measuring("Quick", inner=compiler)) != graph_for(lambda compiler: compiler)


def test_the_fastest_of_several_kernels_is_taken_whatever_the_mapping_prefers() -> None:
    for call in run(measuring("Brisk", "Quick")):
        assert call.kernel is not None
        assert call.kernel.layer == "Quick"
        others = call.decisions[-1].candidates[:-1]
        assert [candidate.miss.code for candidate in others if candidate.miss is not None] == ["not_profitable"]
        assert "paces:Quick is faster" in str(others[0].miss)


def test_first_takes_what_the_mapping_prefers_and_measures_nothing(own_records: Path) -> None:
    for call in run(measuring("Slow", "Quick", select="first")):
        assert call.kernel is not None
        assert call.kernel.layer == "Slow"
    assert not own_records.exists()


def test_on_a_cpu_nothing_is_measured_unless_somebody_asks(own_records: Path) -> None:
    assert {call.status for call in run(hubkernels(inner="eager", mapping=paced("Slow")))} == {"rewritten"}
    assert not own_records.exists()


def test_in_training_forward_and_backward_are_timed() -> None:
    for call in run(measuring("Quick"), training=True):
        assert call.status == "rewritten"
        assert "forward and backward" in call.decisions[-1].candidates[-1].gates[-1].note


def test_the_operations_around_a_call_are_timed_with_it() -> None:
    first, last = run(measuring("Quick"))
    # A relu follows the first scaling, the output the second. Before each stands a linear layer, which is fused with nothing.
    assert "with 1 operation around it" in first.decisions[-1].candidates[-1].gates[-1].note
    assert "by itself" in last.decisions[-1].candidates[-1].gates[-1].note


def test_what_was_timed_is_on_disk_and_the_next_backend_times_nothing(own_records: Path) -> None:
    run(measuring("Quick"))
    records = sorted(own_records.glob("*/*.json"))
    assert len(records) == 2
    content = json.loads(records[0].read_text())
    assert (content["direction"], content["inner"], list(content["failed"])) == ("forward", "eager", [])
    assert not any(str(Path.home()) in path.read_text() for path in records)
    again = measuring("Quick")
    assert {call.status for call in run(again)} == {"rewritten"}
    assert again.session.cache.budget.held == 0


def test_a_record_decides_and_not_the_clock(own_records: Path) -> None:
    run(measuring("Quick"))
    for path in own_records.glob("*/*.json"):
        content = json.loads(path.read_text())
        (kernel,) = content["kernels"].values()
        kernel["device"] = [10 * time for time in content["original"]["device"]]
        path.write_text(json.dumps(content))
    assert {call.status for call in run(measuring("Quick"))} == {"missed"}


def test_records_that_another_machine_has_sent_are_read(own_records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(measuring("Quick"))
    (tmp_path / "sent").mkdir()
    own_records.rename(tmp_path / "sent" / "timed")
    monkeypatch.setenv("FXKERNELS_RECORDS", str(tmp_path / "sent"))
    backend = measuring("Quick")
    run(backend)
    assert backend.session.cache.budget.held == 0


def test_a_damaged_record_is_measured_anew(own_records: Path) -> None:
    run(measuring("Quick"))
    for path in own_records.glob("*/*.json"):
        path.write_text("{")
    backend = measuring("Quick")
    assert {call.status for call in run(backend)} == {"rewritten"}
    assert backend.session.cache.budget.held == 2


def test_explaining_times_nothing_and_says_what_a_record_decides() -> None:
    asked = {"inner": "eager", "select": "measured", "mapping": paced("Slow", "Quick"), "use_fallback": KernelizeFallback.ALL}
    options = replace(Options.of(**asked), edit=False)

    def explained() -> tuple[CallReport, ...]:
        with torch.no_grad():
            return dry_run(Chain().eval(), [options], (example(),), {})[0].calls

    for call in explained():
        assert call.status == "unknown"
        assert [gate.name for gate in call.decisions[-1].unknown_gates] == ["selection"]
        assert call.decisions[-1].kernel is not None
        assert call.decisions[-1].kernel.layer == "Slow"  # which the mapping prefers
    run(measuring("Slow", "Quick"))
    for call in explained():
        assert call.decisions[-1].kernel is not None
        assert call.decisions[-1].kernel.layer == "Quick"
        assert call.status == "rewritten"


def test_without_budget_nothing_is_measured_and_the_compiler_gets_the_call(own_records: Path) -> None:
    for call in run(measuring("Quick", select_budget=0)):
        assert call.miss is not None
        assert call.miss.code == "not_profitable"
        assert "the budget for measuring, 0 s, is used up" in call.miss.message
    assert not own_records.exists()


def test_the_same_form_of_call_is_measured_once() -> None:
    backend = hubkernels(inner="eager", select="measured", mapping={"RMSNorm": {"cpu": repository("norms", "RMSNorm")}})
    torch.compile(Stack(6), backend=backend)(torch.randn(3, 8))
    assert len(backend.report.calls) == 7
    # The first norm follows nothing, the second one the addition to an input that wants no gradient, and nothing comes after the last.
    assert backend.session.cache.budget.held == 4


def test_a_kernel_that_cannot_be_run_is_a_miss_with_its_error() -> None:
    for call in run(measuring("Fails")):
        assert call.miss is not None
        assert call.miss.code == "crash"
        assert "paces:Fails cannot be timed" in call.miss.message
        assert "no such shape" in call.miss.message


def test_one_kernel_that_cannot_be_run_does_not_keep_the_other_from_winning() -> None:
    for call in run(measuring("Fails", "Quick")):
        assert call.kernel is not None
        assert call.kernel.layer == "Quick"


def test_ctrl_c_keeps_what_was_timed_so_far(own_records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fxkernels.selection import benchmark as module

    times_of, held = module.times_of, []

    def interrupted(*args: Any) -> Any:
        if held:
            raise KeyboardInterrupt
        held.append(True)
        return times_of(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "times_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(measuring("Quick"))
    assert len(list(own_records.glob("*/*.json"))) == 1
    backend = measuring("Quick")
    assert {call.status for call in run(backend)} == {"rewritten"}
    assert backend.session.cache.budget.held == 1


def test_backwards_run_in_the_thread_that_compiles_since_it_holds_the_lock_that_inductors_backward_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fxkernels.selection import benchmark as module

    times_of, seen = module.times_of, []

    def noting(*args: Any) -> Any:
        seen.append(torch._C._is_multithreading_enabled())
        return times_of(*args)

    monkeypatch.setattr(module, "times_of", noting)
    run(measuring("Quick"), training=True)
    assert seen == [False, False]
    assert torch._C._is_multithreading_enabled()


def test_measuring_leaves_the_model_its_gradients_and_the_random_numbers_alone() -> None:
    model = Chain()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    torch.compile(model, backend=measuring("Quick"))(torch.ones(64, 64))
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_call_that_is_faster_without_a_kernel_is_no_call_without_a_kernel() -> None:
    assert {call.status for call in run(measuring("Slow", use_fallback=False))} == {"missed"}


def test_a_kernel_that_cannot_be_run_is_none_where_no_fallback_is_allowed() -> None:
    with pytest.raises(BackendCompilerFailed, match="crash: paces:Fails cannot be timed"):
        run(measuring("Fails", use_fallback=False))


def test_dynamic_sizes_are_timed_at_what_they_are_now() -> None:
    backend = measuring("Quick")
    torch.compiler.reset()
    compiled = torch.compile(Chain().eval(), backend=backend, dynamic=True)
    with torch.no_grad():
        compiled(example()[:40])
    assert {call.status for call in backend.report.calls} == {"rewritten"}


@pytest.mark.parametrize("training", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_with_inductor_on_both_sides_the_surrounding_compilation_notices_nothing(training: bool) -> None:
    backend = measuring("Slow", inner="inductor")
    calls = run(backend, training=training)
    assert {call.miss.code for call in calls if call.miss is not None} == {"not_profitable"}
    # Inductor makes one loop of the forty steps, so that the kernel, which it sees through, is no slower by much: what counts is no error.
    assert all("cannot be timed" not in str(call.miss) for call in calls)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "fastest"}, "select= is 'first' or 'measured', not 'fastest'"),
        ({"select_budget": -1}, "select_budget= is a number of seconds, not -1"),
        ({"select_budget": "long"}, "select_budget= is a number of seconds, not 'long'"),
    ],
)
def test_options_that_make_no_sense_are_said_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hubkernels(**options)


# --- what a terminal shows meanwhile ------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return terminal


def test_a_terminal_shows_a_bar_of_the_budget_and_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    with Budget(120, spent=30).spending("model.layers.0.norm"):
        pass
    assert "timing kernels: model.layers.0.norm" in terminal.getvalue()
    assert "of 120 s" in terminal.getvalue()


def test_what_is_no_terminal_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    with Budget(120, spent=30).spending("norm"):
        pass
    assert file.getvalue() == ""


def test_the_bar_goes_away_when_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, budget = on_a_terminal(monkeypatch), Budget(120)
    with pytest.raises(KeyboardInterrupt), budget.spending("norm"):
        raise KeyboardInterrupt
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")  # the cursor is back
    assert budget.spent > 0


class ScaledRelu(Fusion):
    scale = Layer("Scaling")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale(x).relu()


@pytest.mark.parametrize(
    ("fused", "inner", "faster"),
    [("BriskRelu", ["Quick"], "inner"), ("QuickRelu", ["Brisk"], "fused"), ("BriskRelu", ["Quick", "Slow"], "inner")],
    ids=["a slower one", "a faster one", "beside the kernel that the mapping prefers"],
)
def test_a_fused_kernel_has_to_be_faster_than_the_kernels_of_the_calls_inside_it(fused: str, inner: list[str], faster: str) -> None:
    mapping = {**paced(*inner), "ScaledRelu": {"cpu": repository("paces", fused)}}
    with use_fusions(ScaledRelu):
        calls = {call.key: call for call in run(hubkernels(inner="eager", select="measured", mapping=mapping))}
    around = next(call for call in calls.values() if call.layer_name == "ScaledRelu")
    within = calls["scale#0"]
    if faster == "fused":
        assert (around.status, within.status) == ("rewritten", "covered")
    else:
        assert (around.status, within.status) == ("missed", "rewritten")
        assert "; the kernels of the calls inside it are faster" in str(around.miss)
