"""Which versions were tested, and the warning where others are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from fxkernels.versions import TESTED, Releases, installed_versions, untested

ROOT = Path(__file__).parent.parent
CURRENT = (
    ("python", "3.13.0"),
    ("fxkernels", "0.1.0"),
    ("torch", "2.15.0+cu130"),
    ("triton", "3.9.0"),
    ("transformers", "5.24.0"),
    ("huggingface_hub", "2.4.0"),
)


@pytest.mark.parametrize(
    ("library", "version", "tested"),
    [
        ("python", "3.10.13", False),
        ("python", "3.11.0", True),
        ("python", "3.13.0+", True),
        ("python", "3.14.0rc1", False),
        ("torch", "2.10.2", False),
        ("torch", "2.11.0", True),
        ("torch", "2.13.0+cpu", True),
        ("torch", "2.15.1+cu130", True),
        ("torch", "2.16.0.dev20261101+cu130", False),
        ("torch", "3.0.0", False),
        ("triton", "3.5.1", False),
        ("triton", "3.10.0", False),
        ("transformers", "5.5.0", False),
        ("transformers", "5.24.0.dev0", True),
        ("huggingface_hub", "1.9.2", False),
        ("huggingface_hub", "1.31.0", True),
        ("huggingface_hub", "2.4.0.rc0", True),
        ("huggingface_hub", "2.5.0", False),
        ("torch", "unknown", False),
    ],
)
def test_version_is_tested_if_its_minor_release_is_in_the_range(library: str, version: str, tested: bool) -> None:
    assert (version in TESTED[library]) is tested


def test_range_of_one_release_is_named_once() -> None:
    assert str(Releases((2, 11), (2, 15))) == "2.11 to 2.15"
    assert str(Releases((0, 17), (0, 17))) == "0.17"


def test_tested_versions_give_no_warning() -> None:
    assert untested(CURRENT) is None


def test_versions_with_which_these_tests_run_are_tested_ones() -> None:
    assert untested(installed_versions()) is None


def test_warning_names_each_untested_library_with_its_version_and_the_tested_range() -> None:
    sentence = untested((dict(CURRENT) | {"torch": "2.16.0+cu132", "huggingface_hub": "1.9.2"}).items())
    assert sentence is not None
    assert sentence.startswith(
        "fxkernels: not tested with torch 2.16.0+cu132 (tested: 2.11 to 2.15), huggingface_hub 1.9.2 (tested: 1.10 to 2.4); "
    )
    assert "transformers" not in sentence
    assert "`fxkernels env`" in sentence


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """That of a process in which huggingface_hub says that it is a later release."""
    metadata = tmp_path / "huggingface_hub-9.1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: huggingface_hub\nVersion: 9.1.0\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}


SENTENCE = "fxkernels: not tested with huggingface_hub 9.1.0 (tested: 1.10 to 2.4)"


COMPILE = """torch.compile(model, backend="hubkernels", options={"inner": "eager"})(x)"""


@pytest.mark.parametrize("first", ["explain(model, x)", COMPILE], ids=["explain", "compile"])
def test_first_use_warns_of_untested_versions_and_later_ones_do_not(first: str, environment: dict[str, str]) -> None:
    script = f"""
import sys, torch
from fxkernels import explain, hubkernels, kernelize
model, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
print("imported", file=sys.stderr)
{first}
print("used", file=sys.stderr)
explain(model, x), kernelize(model)(x), hubkernels(), {COMPILE}
"""
    result = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    lines = [line.partition(";")[0] for line in result.stderr.splitlines() if line in ("imported", "used") or line.startswith("fxkernels:")]
    assert lines == ["imported", SENTENCE, "used"]


def test_commands_warn_of_untested_versions_on_stderr(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "fxkernels", "env", "--json"]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert result.stderr.startswith(f"Warning: {SENTENCE}; ")
    assert json.loads(result.stdout)["tested"]["huggingface_hub"] == {"range": "1.10 to 2.4", "includes_installed": False}


def test_oldest_tested_versions_are_those_that_can_be_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [Requirement(text) for text in [*project["dependencies"], *extras["transformers"]]]
    required = {each.name: min(Version(part.version).release for part in each.specifier) for each in requirements if each.specifier}
    assert {name: TESTED[name].oldest for name in required} == required
    assert TESTED["python"].oldest == Version(project["requires-python"].removeprefix(">=")).release
