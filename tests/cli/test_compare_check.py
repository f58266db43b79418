from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from report.reports import CUDA

from fxkernels.cli.compare import check
from fxkernels.cli.explain import explain
from fxkernels.report.json import to_json
from fxkernels.report.report import Report

TESTS = Path(__file__).parent.parent

FACTORIES = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from kernel_repositories import repository
from fxkernels import register_kernel_mapping
from fxkernels.demo_model import decoder

def build(**mapped):
    register_kernel_mapping({{name: {{"cpu": repository(*found)}} for name, found in mapped.items()}}, inherit_mapping=False)
    return decoder(length=16, layers=2)

def yesterday():
    return build(RMSNorm=("norms", "RMSNorm"))

def today():
    return build(SiluAndMul=("activations", "SiluAndMul"))

def smaller():
    model, args = yesterday()
    del model.layers[1]
    return model, args
"""

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a module of factories, and what `fxkernels explain` says of ``yesterday``."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "check_factories.py").write_text(FACTORIES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        saved = CliRunner().invoke(explain, ["check_factories:yesterday", "--no-builtin", "--json", "saved.json"])
        assert saved.exit_code == 0, saved.output
        yield folder
    sys.modules.pop("check_factories", None)


@pytest.fixture
def run(project: Path) -> Run:
    """Runs `fxkernels check report.json` in that folder."""
    (project / "report.json").write_bytes((project / "saved.json").read_bytes())

    def run_(target: str, *options: str) -> Result:
        return CliRunner(env={"COLUMNS": "80"}).invoke(check, ["report.json", f"check_factories:{target}", "--no-builtin", *options])

    return run_


def edit(change: Callable[[Report], Report]) -> None:
    saved = Path("report.json")
    saved.write_text(to_json(change(Report.from_json(saved.read_text()))))


def test_a_model_that_kept_its_kernels_passes(run: Run) -> None:
    result = run("yesterday")
    assert result.exit_code == 0, result.output
    assert result.stdout == "no kernel was lost: 5 layer calls have one, or might, as before\n"


def test_a_lost_kernel_fails_with_the_calls_and_the_reason(run: Run) -> None:
    result = run("today")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == "5 of 5 layer calls lost their kernel"
    text = " ".join(result.stdout.split())
    assert "layers.{0..1}.input_layernorm x2: rewritten by norms:RMSNorm" in text
    assert "-> missed (no_mapping: no kernel is mapped to layer name 'RMSNorm'" in text
    assert max(map(len, lines)) <= 80
    assert "save the report anew" in result.stderr


def test_a_layer_that_is_gone_has_lost_its_kernel(run: Run) -> None:
    result = run("smaller")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0] == "2 of 5 layer calls lost their kernel"
    assert "  - layers.1.input_layernorm: rewritten by" in result.stdout


def test_kernels_that_are_new_are_fine(run: Run) -> None:
    def without_norms(plan: Report) -> Report:
        return replace(plan, calls=tuple(call for call in plan.calls if call.status != "rewritten" or call.path == "norm"))

    edit(without_norms)
    result = run("yesterday")
    assert (result.exit_code, result.stdout) == (
        0,
        "no kernel was lost: 1 layer call has one, or might, as before; 4 more have one now, save the report anew to keep them\n",
    )


def test_a_plan_for_another_device_is_checked_for_that_device_with_the_torch_of_this_machine(run: Run) -> None:
    edit(lambda plan: replace(plan, targets=(replace(CUDA, torch="2.12"),)))
    result = run("yesterday", "--json")
    value = json.loads(result.stdout)
    assert (result.exit_code, value["ok"]) == (1, False)
    (target,) = [difference for difference in value["captures"] if difference["what"] == "target"]
    assert target["before"] == "cuda:sm90 torch2.12 cu130 linux-x86_64"
    assert "no kernel is mapped to layer name 'RMSNorm' for cuda" in value["calls"][0]["differences"][0]["after"]


def test_json_says_that_all_is_well(run: Run) -> None:
    value = json.loads(run("yesterday", "--json").stdout)
    assert (value["ok"], value["same"]) == (True, True)


@pytest.mark.parametrize("arguments", [("gone.json", "check_factories:yesterday"), ("report.json", "check_factories:nobody")])
def test_what_cannot_be_loaded_exits_with_2(run: Run, arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(check, list(arguments))
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.output
