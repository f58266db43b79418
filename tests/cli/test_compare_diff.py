from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from report.reports import llama_like, small_report

from fxkernels.cli.compare import diff
from fxkernels.report.compare import render_comparison
from fxkernels.report.json import to_json

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `fxkernels diff` in a folder with some reports."""
    reports = {"before": llama_like(4), "same": llama_like(4), "after": llama_like(4, [1, 2]), "other": small_report()}
    for name, report in reports.items():
        (tmp_path / f"{name}.json").write_text(to_json(report))
    (tmp_path / "broken.json").write_text(to_json(llama_like(1)).replace('"path"', '"way"', 1))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    monkeypatch.chdir(tmp_path)

    def run_(*arguments: str, **options: object) -> Result:
        return CliRunner(env={"COLUMNS": "80"}).invoke(diff, list(arguments), **options)  # type: ignore[arg-type]

    return run_


def test_equal_reports_exit_with_0(run: Run) -> None:
    result = run("before.json", "same.json")
    assert (result.exit_code, result.stdout) == (0, "no difference: 17 calls are decided alike\n")


def test_different_reports_exit_with_1_and_show_what_is_different(run: Run) -> None:
    result = run("before.json", "after.json")
    assert result.exit_code == 1
    assert result.stdout == render_comparison(llama_like(4).compare(llama_like(4, [1, 2])), 80) + "\n"
    assert result.stderr == ""


def test_lines_fit_80_columns_and_have_no_colours(run: Run) -> None:
    out = run("other.json", "after.json").stdout
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out


def test_quietly_only_the_exit_code_tells(run: Run) -> None:
    result = run("-q", "before.json", "after.json")
    assert (result.exit_code, result.output) == (1, "")


def test_one_report_may_come_from_standard_input(run: Run, tmp_path: Path) -> None:
    assert run("before.json", "-", input=(tmp_path / "same.json").read_text()).exit_code == 0


def test_json_has_the_calls_that_changed(run: Run) -> None:
    result = run("--json", "before.json", "after.json")
    value = json.loads(result.stdout)
    assert (result.exit_code, value["same"]) == (1, False)
    assert [call["call"] for call in value["calls"]] == [f"model.layers.{n}.input_layernorm#0" for n in (1, 2)]
    assert value["calls"][0]["lost"] is True
    assert value["calls"][0]["differences"][1] == {
        "what": "input hidden_states",
        "before": "bf16[2, 8, 64]",
        "after": "f32[2, 8, 64] strides [1024, 128, 2]",
    }
    assert json.loads(run("--json", "before.json", "same.json").stdout) == {"same": True, "versions": [], "captures": [], "calls": []}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gone.json", "before.json"), "Error: gone.json cannot be read: No such file or directory\n"),
        ((".", "before.json"), "Error: . cannot be read: Is a directory\n"),
        (("before.json", "binary.json"), "Error: binary.json: this is no JSON report: it is not in UTF-8\n"),
        (("before.json", "broken.json"), "Error: broken.json: calls[0] lacks the key 'path'\n"),
    ],
)
def test_trouble_exits_with_2_and_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", message)


def test_a_missing_argument_exits_with_2(run: Run) -> None:
    assert run("before.json").exit_code == 2
