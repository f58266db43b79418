"""`fxkernels numerics`: the kernel that is off stands on top."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from fxkernels.cli import main

TESTS = Path(__file__).parent.parent

FACTORIES = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import torch
from fxkernels import register_kernel_mapping
from marked_models import culprits, marked_stack

def build():
    register_kernel_mapping(culprits("Adds"))
    return marked_stack(1, blocks=3).eval(), (torch.randn(3, 8),)

def broken():
    return build()[0], (torch.randn(3, 9),)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "numerics_factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    sys.modules.pop("numerics_factories", None)


def test_the_wrong_kernel_comes_first_and_is_drawn(project: Path) -> None:
    arguments = ["numerics", "numerics_factories:build", "--no-builtin", "--unverified", "--plot", "found.svg"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    rows = [line for line in result.output.splitlines() if "culprits:Adds" in line]
    assert "blocks.1.norm#0" in rows[0]
    assert (project / "found.svg").read_text().startswith("<svg")


def test_a_model_that_raises_is_an_error_in_one_paragraph(project: Path) -> None:
    result = CliRunner().invoke(main, ["numerics", "numerics_factories:broken", "--no-builtin", "--unverified"])
    assert result.exit_code == 2
    assert "numerics_factories:broken cannot be measured" in result.output
    assert "Traceback" not in result.output


def test_a_plot_that_cannot_be_written_is_said_before_anything_runs(project: Path) -> None:
    result = CliRunner().invoke(main, ["numerics", "numerics_factories:build", "--plot", "found.png"])
    assert (result.exit_code, "has to be a .svg file" in result.output) == (2, True)
