"""What the commands print: errors, help, JSON, and plain text in a pipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_commands import H100, Run, answer, fits
from loopback import LoopbackHub
from published import kernel


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (["versions", "acme/none"], 1, "there is no such kernel repository"),
        (["info", "acme/norms", "--version", "3"], 1, "it has no such version or revision"),
        (["download", "acme/norms", "--version", "3"], 1, "it has no such version or revision"),
        (["download", "acme/norms"], 2, "neither a version nor a revision"),
        (["download", "acme/norms", "--version", "1", "--revision", "main"], 2, "give one of the two"),
        (["download", "acme/norms", "--version", "1", "--for", "gpu"], 2, "target 'gpu' begins with 'gpu'"),
        (["download", "acme/norms", "--version", "1", "--for", H100], 1, "acme/norms@"),
        (["download", "acme/norms", "--version", "1", "--for", "cpu", "--all-variants"], 2, "contradict each other"),
        (["download"], 2, "give a REPO such as acme/norms, or --lockfile"),
        (["download", "acme/norms", "--lockfile", "x.lock"], 2, "--lockfile says what to download"),
        (["download", "--lockfile", "x.lock"], 1, "there is no lock file"),
        (["download", "norms", "--version", "1"], 2, "'norms' is no repository on the Hub"),
        (["download", "../x", "--version", "1"], 2, "'../x' is no repository on the Hub"),
        (["download", "acme/norms", "--revision", "../x"], 2, "no name of a commit, tag or branch"),
        (["info", "norms"], 2, "norms is no directory, and no repository"),
        (["lock"], 2, "there is no pyproject.toml"),
        (["verify", "norms"], 2, "norms is no lock file, no directory, and no repository"),
        (["verify", ".", "--version", "1"], 2, "--version and --revision belong to a repository"),
        (["verify", "acme/norms"], 1, "nothing is there to be checked"),
    ],
)
def test_an_error_is_a_line_on_stderr_or_a_json_object_and_an_exit_code(
    hub: LoopbackHub, run: Run, command: list[str], code: int, message: str
) -> None:
    hub.add("acme/norms", kernel("torch-cpu"))
    result = run(*command)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    result = run(*command, "--json")
    assert result.exit_code == code
    content = answer(result)
    assert message in (content["failure"] if "failure" in content else content["error"]["message"])


def test_the_error_object_has_the_code_of_the_miss(hub: LoopbackHub, run: Run) -> None:
    hub.add("acme/norms", kernel("torch-cuda"), trusted=False)
    assert answer(run("download", "acme/norms", "--version", "1", "--json"))["error"]["code"] == "untrusted"
    trusting = run("download", "acme/norms", "--version", "1", "--trust", "acme/norms", "--for", "cpu", "--json")
    assert answer(trusting)["error"]["code"] == "no_variant"


@pytest.mark.parametrize("command", ["download", "lock", "verify", "versions", "info"])
def test_help_has_examples_and_fits_80_columns(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Examples:\n    fxkernels {command}" in result.stdout
    assert fits(result)


@pytest.mark.slow
def test_the_commands_in_a_pipe_print_plain_text_and_nothing_on_stderr(hub: LoopbackHub, client: Any, tmp_path: Path) -> None:
    hub.add("acme/norms", kernel())
    environment = {key: value for key, value in client.environment().items() if key != "HF_HUB_DISABLE_PROGRESS_BARS"}
    command = [sys.executable, "-m", "fxkernels", "info", "acme/norms", "--version", "1"]
    root = str(Path(__file__).parents[2])
    result = subprocess.run(command, cwd=tmp_path, env=environment | {"PYTHONPATH": root}, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    assert "> torch-universal: fits best" in result.stdout
