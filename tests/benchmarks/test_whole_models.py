"""`benchmarks/models.py` on tiny models: the rows it gives, and that one side sees nothing of another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from models import Bench, annotated, reasons
from torch import nn
from whole_models import sides as sides_module
from whole_models.apart import Shared, hidden, in_place
from whole_models.measuring import in_rounds
from whole_models.sides import SIDES, make_side
from whole_models.step import Step
from whole_models.workload import Workload
from whole_models.workloads import workloads

# transformers asks for torch's version within a model, through a cached function.
pytestmark = pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning")

BENCH = Bench(device="cpu", runs=2, seconds=0.01, limit=300)
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "models.py"


def workload(name: str) -> Workload:
    return next(each for each in workloads("tiny", layers=1) if each.name == name)


def rows_of(name: str, *sides: str, left_out: dict[str, str] | None = None) -> dict[str, dict[str, Any]]:
    if "kernels" in sides:
        needs_the_kernels_package()
    wanted: dict[str, str | None] = dict.fromkeys(sides)
    return {row["side"]: row for row in BENCH.cells(workload(name), wanted | (left_out or {}))}


def needs_the_kernels_package() -> None:
    pytest.importorskip("kernels.layer")  # the tests have a folder of that name, which is no package


def with_side(monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    monkeypatch.setitem(sides_module.SIDES, "broken", make)


# --- rows --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prefill", "training"])
def test_each_side_is_a_row_with_its_times_and_how_far_it_is_off(name: str) -> None:
    rows = rows_of(name, "eager", "kernels", "kernelize")
    assert list(rows) == ["eager", "kernels", "kernelize"]
    for row in rows.values():
        assert len(row["rounds"]) == 2
        assert min(row["rounds"]) <= row["milliseconds"] <= max(row["rounds"])
        assert row["cold"]
    assert 0 < rows["kernels"]["off by"] < 0.05
    assert rows["kernelize"]["layers"]["RMSNorm"] == {"rewritten": 3}
    assert rows["kernelize"]["calls"] == {"rewritten": 4, "no_mapping": 1}


def test_a_decoding_step_starts_from_the_same_cache_each_time() -> None:
    step = BENCH.step("eager", workload("decode"), workload("decode").build("cpu").state_dict())
    first = step.outcome()
    step.batch(3)
    assert torch.equal(first[0], step.outcome()[0])


def test_a_side_that_is_left_out_says_why() -> None:
    rows = rows_of("prefill", "eager", left_out={"liger": "needs a GPU"})
    assert rows["liger"]["left out"] == "needs a GPU"


def test_a_side_that_raises_is_a_row_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(model: nn.Module, workload: Workload, device: str) -> Any:
        raise RuntimeError("no such kernel\nand more of it")

    with_side(monkeypatch, make)
    rows = rows_of("prefill", "eager", "broken")
    assert rows["broken"]["error"] == "RuntimeError: no such kernel"
    assert "milliseconds" in rows["eager"]


def test_a_side_that_is_wrong_is_a_row_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(model: nn.Module, workload: Workload, device: str) -> Any:
        model.get_parameter("model.norm.weight").data = torch.full_like(model.get_parameter("model.norm.weight"), 2.0)
        return model, None

    with_side(monkeypatch, make)
    rows = rows_of("prefill", "eager", "broken", "kernels")
    assert rows["broken"]["error"] == "ValueError: its result is off by 1 of eager's, more than 0.05"
    assert "milliseconds" in rows["kernels"]


def test_a_side_that_takes_too_long_is_a_row_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(model: nn.Module, workload: Workload, device: str) -> Any:
        while True:
            pass

    with_side(monkeypatch, make)
    rows = {row["side"]: row for row in Bench("cpu", 1, 0.01, 1).cells(workload("prefill"), {"broken": None})}
    assert rows["broken"]["error"] == "TimeoutError: not done after 1 s"


def test_sides_take_their_turns_there_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_the_kernels_package()
    weights = workload("prefill").build("cpu").state_dict()
    steps = {name: BENCH.step(name, workload("prefill"), weights) for name in ("eager", "kernels")}
    turns: list[str] = []
    by_clock = Step.by_clock

    def noting(step: Step, calls: int) -> float:
        turns.append(step.side.name)
        return by_clock(step, calls)

    monkeypatch.setattr(Step, "by_clock", noting)
    rows = dict(in_rounds(steps, runs=3, seconds=0.01))
    assert [name for name, _ in groupby(turns)] == ["eager", "kernels", "eager", "kernels"]
    assert {len(row["rounds"]) for row in rows.values()} == {3}


def test_what_was_timed_before_the_time_is_up_is_not_lost() -> None:
    step = BENCH.step("eager", workload("prefill"), workload("prefill").build("cpu").state_dict())
    step()
    rows = dict(in_rounds({"eager": step}, runs=1000, seconds=0.01, deadline=time.monotonic() + 0.2))
    assert 1 <= len(rows["eager"]["rounds"]) < 1000


def test_what_a_cpu_cannot_do_is_left_out() -> None:
    found = reasons(workload("prefill"), "cpu", (), ("prefill:kernels", "inductor"))
    assert found["liger"] == "needs a GPU"
    assert found["kernels"] == found["inductor"] == "not asked for"
    assert found["hubkernels"] is None
    assert list(reasons(workload("gated-delta"), "cuda", ("inductor", "kernelize"), ())) == ["eager", "kernelize", "inductor"]
    assert list(reasons(workload("bert"), "cuda", ("liger", "hubkernels"), ())) == ["eager", "hubkernels", "liger"]


@pytest.mark.parametrize("name", [each.name for each in workloads("tiny")])
def test_every_workload_has_annotated_layers(name: str) -> None:
    assert annotated(workload(name), "cpu")


# --- apart -------------------------------------------------------------------------------------------------------------------------------


def test_what_a_side_changes_for_the_process_is_there_only_while_it_runs() -> None:
    needs_the_kernels_package()
    from transformers.models.llama import modeling_llama

    rotary = modeling_llama.apply_rotary_pos_emb
    model = workload("prefill").build("cpu")
    shared = Shared.now()
    side = make_side("kernels", model, workload("prefill"), "cpu")
    assert "forward" not in vars(rotary)
    with in_place(side.changes):
        assert "forward" in vars(rotary)
        with pytest.raises(AssertionError, match=r"a side has left its mark on the process: .*forward"):
            shared.check()
    shared.check()


def test_a_side_that_is_patched_by_instance_leaves_the_others_alone() -> None:
    needs_the_kernels_package()
    weights = workload("prefill").build("cpu").state_dict()
    plain, patched = (workload("prefill").build("cpu", weights) for _ in range(2))
    make_side("kernels", patched, workload("prefill"), "cpu")
    assert "forward" in vars(patched.get_submodule("model.norm"))
    assert "forward" not in vars(plain.get_submodule("model.norm"))


def test_sides_share_their_weights_and_not_their_gradients() -> None:
    weights = workload("training").build("cpu").state_dict()
    first, second = (workload("training").build("cpu", weights) for _ in range(2))
    one, other = (model.get_parameter("model.embed_tokens.weight") for model in (first, second))
    assert one.data_ptr() == other.data_ptr()
    assert one is not other
    assert first.get_parameter("lm_head.weight") is one


def test_a_hidden_package_cannot_be_imported_meanwhile() -> None:
    with hidden("colorsys", "no_such_package"), pytest.raises(ImportError):
        import colorsys
    import colorsys

    assert colorsys.rgb_to_hsv
    assert "no_such_package" not in sys.modules


# --- the command -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_compiles_every_side_for_itself(tmp_path: Path) -> None:
    needs_the_kernels_package()
    wanted = ["eager", "inductor", "hubkernels", "kernels+inductor", "kernelize"]
    options = [word for side in wanted[1:] for word in ("--side", side)]
    command = [sys.executable, str(SCRIPT), "prefill", "--device", "cpu", "--size", "tiny", "--layers", "1", "--runs", "2", *options]
    result = subprocess.run(
        [*command, "--threads", "1", "--turns", str(tmp_path / "turns")],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"FXKERNELS_VERIFY": "off"},
    )
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["side"] for row in rows] == wanted
    assert all(row["milliseconds"] > 0 for row in rows), result.stderr
    assert all(row["annotated in a layer"] == {"RMSNorm": 3, "rotary_pos_emb": 1, "SiLU": 1} for row in rows)
    assert rows[0]["versions"]["kernels"]


def test_every_side_has_a_column() -> None:
    from whole_models.table import LABELS

    assert set(SIDES) == set(LABELS)
