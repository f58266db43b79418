"""tune(): call by call, then end to end, and the plan that comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from paced_models import SIZE, Chain, Scaling, example, one_thread, paced

from fxkernels import hubkernels, tuning
from fxkernels.tuning import tune


@pytest.fixture(autouse=True)
def own_records_and_short_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FXKERNELS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "_SECONDS", 0.02)
    with one_thread():
        yield


@pytest.mark.parametrize("training", [False, True])
def test_a_plan_has_the_kernels_that_pay_and_runs_as_it_says(training: bool, tmp_path: Path) -> None:
    model, x, said = Chain().train(training), example(), []
    plan = tune(model, (x,), mapping=paced("Slow", "Quick"), inner="eager", tell=said.append)
    assert {entry.kernel for entry in plan.calls} == {"paces:Quick"}
    assert {entry.training for entry in plan.calls} == {training}
    assert plan.milliseconds["plan"] < plan.milliseconds["compiler"]
    assert said[0] == "call by call: 2 of 2 layer calls rewritten"
    assert " ms with kernels and " in said[1]
    assert all(parameter.grad is None for parameter in model.parameters())
    plan.write(tmp_path / "plan.json")
    backend = hubkernels(inner="eager", mapping=paced("Slow", "Quick"), plan=tmp_path / "plan.json")
    torch.compile(model, backend=backend)(x)
    assert {call.status for call in backend.report.calls} == {"rewritten"}


class Pair(torch.nn.Module):
    """Two scalings of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Scaling(), Scaling()

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.first(x), self.second(y)


def test_a_plan_knows_both_of_two_calls_that_differ_in_a_stride_which_is_never_used() -> None:
    x, y = torch.randn(1, SIZE), torch.randn(1, 2 * SIZE)[:, :SIZE]
    plan = tune(Pair().eval(), (x, y), mapping=paced("Quick"), inner="eager")
    assert [(entry.calls, entry.kernel) for entry in plan.calls] == [(("first#0", "second#0"), "paces:Quick")]
    backend = hubkernels(inner="eager", mapping=paced("Quick"), plan=plan)
    torch.compile(Pair().eval(), backend=backend)(x, y)
    assert [call.status for call in backend.report.calls] == ["rewritten", "rewritten"]


def test_a_model_without_candidates_has_no_plan() -> None:
    with pytest.raises(ValueError, match="no layer call of Linear has a kernel to choose"):
        tune(torch.nn.Linear(3, 3), (torch.ones(3),), mapping=paced("Quick"), inner="eager")


def test_kernels_that_make_the_whole_step_slower_are_taken_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here everything that was chosen call by call is a bad choice: the records were made by somebody who mixed up the two sides."""
    from fxkernels.selection import Times, benchmark

    times_of = benchmark.times_of

    def mixed_up(*args: object) -> dict[str, Times]:
        found = times_of(*args)  # type: ignore[arg-type]
        (kernel,) = [name for name in found if name]
        return {"": found[kernel], kernel: found[""]}

    monkeypatch.setattr(benchmark, "times_of", mixed_up)
    said: list[str] = []
    plan = tune(Chain().eval(), (example(),), mapping=paced("Slow"), inner="eager", tell=said.append)
    assert [entry.kernel for entry in plan.calls] == [None, None]
    assert all("the whole step was slower with paces:Slow" in entry.why for entry in plan.calls)
    assert said[-1].startswith("without kernels for Scaling: a step takes ")


def test_interrupted_it_goes_on_from_what_was_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = tuning._timed
    monkeypatch.setattr(tuning, "_timed", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tune(Chain().eval(), (example(),), mapping=paced("Quick"), inner="eager")
    monkeypatch.setattr(tuning, "_timed", timed)
    plan = tune(Chain().eval(), (example(),), mapping=paced("Quick"), inner="eager", budget=0)
    assert {entry.kernel for entry in plan.calls} == {"paces:Quick"}
