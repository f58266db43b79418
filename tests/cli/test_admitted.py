"""`fxkernels admitted` shows what was found out, and forgets it when told to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hazard_probe_cases import norm_probe_case

from fxkernels.admission import admit, forget_verdicts
from fxkernels.cli.admitted import admitted


@pytest.fixture(autouse=True)
def own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FXKERNELS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FXKERNELS_VERIFY", raising=False)
    forget_verdicts()
    yield
    forget_verdicts()


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(admitted, arguments)
    assert result.exit_code == code, result.output
    return result.output


def test_the_commands_on_an_empty_directory_say_so() -> None:
    assert "nothing in" in run("list")
    assert json.loads(run("list", "--json"))["records"] == []
    assert "nothing to forget" in run("forget", "--all")


def test_records_are_listed_shown_and_forgotten() -> None:
    admit(norm_probe_case("hazard-twins:RMSNorm"))
    admit(norm_probe_case("hazard-1-incoming-gradient:RMSNorm"))
    lines = run("list").splitlines()
    assert [line.split("  ", 1)[1].strip() for line in lines] == [
        "refused gradient hazard-1-incoming-gradient:RMSNorm, training, with gradient",
        "admitted         hazard-twins:RMSNorm, training, with gradient",
    ]
    key = lines[0].split()[0]
    assert "its backward overwrites the incoming gradient" in run("show", key)
    assert json.loads(run("show", key, "--json"))["code"] == "gradient"
    assert run("list", "--refused").split()[0] == key
    assert run("forget", key).startswith(f"forgot {key}")
    assert len(run("list").splitlines()) == 1


def test_a_key_that_is_none_is_an_error_of_use() -> None:
    assert "no record begins with 'abc'" in run("show", "abc", code=2)
    assert "name the keys to forget, or say --all" in run("forget", code=2)
