"""The group of all commands."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner, Result

import fxkernels
from fxkernels.cli import main


def run(*arguments: str, **options: object) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, list(arguments), **options)  # type: ignore[arg-type]


def test_version_names_fxkernels_and_torch() -> None:
    assert run("--version").stdout == f"fxkernels {fxkernels.__version__}, torch {torch.__version__}\n"


@pytest.mark.parametrize("command", [[], ["demo"], ["explain"]])
def test_help_has_examples_and_fits_80_columns(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_an_unknown_command_is_exit_code_2() -> None:
    assert run("kernelise").exit_code == 2
