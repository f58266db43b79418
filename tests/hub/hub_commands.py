"""The command line on the loopback Hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fxkernels.cli import main

Run = Callable[..., Result]
CUDA_BUILD = "torch213-cxx11-cu130-x86_64-linux"
H100 = "cuda:sm90 torch2.13 cu130"


@pytest.fixture
def run(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in an empty folder, with the real client pointed at the loopback Hub."""
    monkeypatch.chdir(tmp_path)

    def run_(*arguments: str) -> Result:
        result = CliRunner(env={"COLUMNS": "80"}).invoke(main, list(arguments))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run_


def answer(result: Result) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(result.stdout)
    assert content["ok"] == (result.exit_code == 0)
    return content


def project(*lines: str) -> None:
    Path("pyproject.toml").write_text("\n".join(["[tool.fxkernels.kernels]", *lines]))


def cached(client: Any, path: str, repo_id: str = "acme/norms") -> Path:
    (file,) = client.folder(repo_id).glob(f"snapshots/*/build/{path}")
    return Path(file)


def change(file: Path, content: bytes) -> None:
    file.resolve().chmod(0o644)
    file.resolve().write_bytes(content)


def fits(result: Result) -> bool:
    return max(map(len, result.stdout.splitlines())) <= 80
