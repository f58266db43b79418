"""`fxkernels tune`: the file that it writes, and what it says when it cannot."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from fxkernels.cli import main
from fxkernels.selection.tuned_plan import TunedPlan

TESTS = Path(__file__).parent.parent

FACTORIES = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from fxkernels import register_kernel_mapping
from paced_models import Chain, example, paced

def build():
    register_kernel_mapping(paced("Quick"))
    return Chain().eval(), (example(),)

def broken():
    return build()[0], (example()[:, :9],)
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "tune_factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FXKERNELS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    sys.modules.pop("tune_factories", None)


@pytest.mark.slow
def test_a_plan_is_written_with_inductor_on_both_sides(project: Path) -> None:
    result = CliRunner().invoke(main, ["tune", "tune_factories:build", "--no-builtin", "-o", "plan.json"])
    assert result.exit_code == 0, result.output
    plan = TunedPlan.read(project / "plan.json")
    assert (plan.model, plan.inner, len(plan.calls)) == ("Chain", "inductor", 2)
    assert "of 2 layer calls run a kernel, measured on cpu" in result.output


def test_a_file_that_cannot_be_the_plan_is_said_before_anything_runs() -> None:
    for name in ("plan.html", "nowhere/plan.json"):
        result = CliRunner().invoke(main, ["tune", "tune_factories:build", "-o", name])
        assert (result.exit_code, "has to be a .json file in a folder that exists" in result.output) == (2, True)


def test_a_model_that_raises_is_an_error_in_one_paragraph_and_nothing_is_written(project: Path) -> None:
    result = CliRunner().invoke(main, ["tune", "tune_factories:broken", "--no-builtin", "-o", "plan.json"])
    assert result.exit_code == 2
    assert "tune_factories:broken cannot be tuned" in result.output
    assert not (project / "plan.json").exists()
