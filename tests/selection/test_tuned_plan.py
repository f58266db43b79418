"""Tuned plans: what they decide, and what is said of one that no longer fits."""

from __future__ import annotations

import functools
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_repositories import repository
from paced_models import Chain, example, paced

from fxkernels import explain, hubkernels, use_kernel_mapping
from fxkernels.backend import HubKernels
from fxkernels.kernels.loader import load_kernel_layer
from fxkernels.kernels.lowering.names import state_of
from fxkernels.selection import Inner
from fxkernels.selection.tuned_plan import PlannedCalls, TunedPlan
from fxkernels.target import Target

INPUTS = ("x: f32[64, 64]", "self.weight: f32[64]")
CPU = torch.device("cpu")


def state(layer: str) -> str:
    return state_of(load_kernel_layer(repository("paces", layer), Target.of_machine("cpu")))


@functools.cache
def form() -> str:
    """The key of the form that both calls have in a plan."""
    backend = hubkernels(inner="eager", mapping=paced("Quick"))
    torch.compiler.reset()
    with torch.no_grad():
        torch.compile(Chain().eval(), backend=backend, dynamic=False)(example())
    (found,) = {decision.description.form for _, _, decision in backend.session.recorder.decisions()}
    return found


def planned(call: str, kernel: str | None = "Quick", **changes: Any) -> PlannedCalls:
    names = (f"paces:{kernel}", state(kernel)) if kernel is not None else (None, None)
    return replace(PlannedCalls((call,), "Scaling", False, INPUTS, form(), *names, why="1 us instead of 2 us"), **changes)


def plan(*calls: PlannedCalls, **changes: Any) -> TunedPlan:
    return replace(TunedPlan.on(CPU, Inner("eager"), "Chain", calls), source="plan.json", **changes)


def run(chosen: TunedPlan | Path, *kernels: str, rows: int = 64) -> HubKernels:
    backend = hubkernels(inner="eager", mapping=paced(*(kernels or ("Slow", "Quick"))), plan=chosen)
    torch.compiler.reset()
    with torch.no_grad():
        torch.compile(Chain().eval(), backend=backend, dynamic=False)(example()[:rows])
    return backend


def statuses(backend: HubKernels) -> list[str]:
    return [call.status for call in backend.report.calls]


def reasons(backend: HubKernels) -> str:
    return " | ".join(str(call.miss) for call in backend.report.calls if call.miss is not None)


def test_the_plans_kernel_runs_whatever_the_mapping_prefers_and_other_calls_are_the_compilers() -> None:
    backend = run(plan(planned("scale#0"), planned("last#0", None)))
    scale, last = backend.report.calls
    assert scale.kernel is not None
    assert scale.kernel.layer == "Quick"
    assert scale.decisions[-1].candidates[-1].gates[-1].note == "plan.json: 1 us instead of 2 us"
    assert last.miss is not None
    assert str(last.miss) == "not_profitable: plan.json leaves it to the compiler: 1 us instead of 2 us"
    assert backend.report.notes == ()


def test_nothing_is_loaded_for_a_call_that_the_plan_leaves_to_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    from fxkernels.kernels import loader

    monkeypatch.setattr(loader, "load_kernel_layer", lambda *_: pytest.fail("loaded"))
    assert statuses(run(plan(planned("scale#0", None), planned("last#0", None)))) == ["missed", "missed"]


def test_a_plan_for_another_version_says_so_once_and_runs_no_kernel(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        backend = run(plan(planned("scale#0"), planned("last#0"), versions={"torch": "1.0"}))
    assert statuses(backend) == ["missed", "missed"]
    said = [record.getMessage() for record in caplog.records if "plan.json" in record.getMessage()]
    assert said == [f"plan.json was measured with torch 1.0, here it is {torch.__version__}: tune again, until then no kernel runs"]
    assert backend.report.notes == tuple(said)
    assert said[0] in reasons(backend)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "NVIDIA H200"}, "measured with device NVIDIA H200, here it is cpu"),
        ({"inner": "inductor reduce-overhead"}, "inner compiler inductor reduce-overhead, here it is eager"),
    ],
)
def test_a_plan_for_another_machine_or_compiler_says_which(change: dict[str, str], message: str) -> None:
    backend = run(plan(planned("scale#0"), planned("last#0"), **change))
    assert statuses(backend) == ["missed", "missed"]
    assert message in reasons(backend)


def test_other_sizes_than_the_plans_are_named_with_those_it_has() -> None:
    backend = run(plan(planned("scale#0"), planned("last#0")), rows=32)
    assert statuses(backend) == ["missed", "missed"]
    assert "plan.json does not know Scaling with (x: f32[32, 64], self.weight: f32[64]) in eval mode" in reasons(backend)
    assert "only with (x: f32[64, 64], self.weight: f32[64]) in eval mode" in reasons(backend)


def test_a_call_that_the_plan_has_never_seen_is_said() -> None:
    backend = run(plan(planned("scale#0")))
    assert statuses(backend) == ["rewritten", "missed"]
    assert "a call of that path with nothing" in reasons(backend)


def test_a_kernel_that_the_mapping_no_longer_offers_is_said() -> None:
    backend = run(plan(planned("scale#0"), planned("last#0", None)), "Slow")
    assert statuses(backend) == ["missed", "missed"]
    assert "plan.json has paces:Quick for it, which the mapping does not offer" in reasons(backend)
    assert len(backend.report.notes) == 1


def test_a_kernel_in_another_state_is_said() -> None:
    backend = run(plan(planned("scale#0", state="0" * 64), planned("last#0", None)))
    assert statuses(backend) == ["missed", "missed"]
    assert "measured with paces:Quick at 000000000000, here it is at " in reasons(backend)


def test_a_kernel_that_is_turned_away_by_another_gate_is_said() -> None:
    broken = {"Scaling": {"cpu": repository("broken-import", "Scaling")}}
    entry = planned("scale#0", kernel="Quick")
    chosen = plan(replace(entry, kernel="broken-import:Scaling"), planned("last#0", None))
    from fxkernels import KernelizeFallback

    backend = hubkernels(inner="eager", mapping=broken, plan=chosen, use_fallback=KernelizeFallback.ALL)
    with torch.no_grad():
        torch.compile(Chain().eval(), backend=backend)(example())
    assert statuses(backend) == ["missed", "missed"]
    assert any("which was turned away: load_error" in note for note in backend.report.notes)


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = plan(planned("scale#0"), planned("last#0", None, training=True), milliseconds={"compiler": 2.0, "plan": 1.5})
    written.write(tmp_path / "plan.json")
    assert TunedPlan.read(tmp_path / "plan.json") == written
    assert statuses(run(tmp_path / "plan.json")) == ["rewritten", "missed"]


def test_the_file_is_named_in_the_options_of_torch_compile(tmp_path: Path) -> None:
    plan(planned("scale#0"), planned("last#0", None)).write(tmp_path / "plan.json")
    model = Chain().eval()
    with torch.no_grad(), use_kernel_mapping(paced("Quick")):
        compiled = torch.compile(model, backend="hubkernels", options={"plan": str(tmp_path / "plan.json"), "inner": "eager"})
        torch.testing.assert_close(compiled(x := example()), model(x))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory; `fxkernels tune TARGET -o FILE` writes one"),
        ("{", "is no plan: it is not JSON"),
        ("[]", "is something else, not a tuned plan"),
        (json.dumps({"what": "fxkernels tuned plan", "format": 99}), "has format 99, this version reads 2"),
        (json.dumps({"what": "fxkernels tuned plan", "format": 2, "calls": [{}]}), "is damaged: KeyError"),
    ],
)
def test_what_is_no_plan_is_an_error_that_says_why(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "plan.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        hubkernels(plan=tmp_path / "plan.json")


def test_a_report_is_not_taken_for_a_plan(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(explain(Chain(), example()).to_json())
    with pytest.raises(ValueError, match="is a report, not a tuned plan"):
        hubkernels(plan=tmp_path / "report.json")


def test_a_plan_and_a_way_to_select_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="give one of the two"):
        hubkernels(plan=plan(), select="first")
    with pytest.raises(TypeError, match="is the path of a file"):
        hubkernels(plan=3)  # type: ignore[arg-type]
