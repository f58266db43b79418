from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fxkernels import __version__
from fxkernels.cli.env import env, shown_variables, shown_version
from fxkernels.target import Target

TOKEN = "hf_" + "a1B2c3D4" * 4


def test_env_shows_versions_devices_places_and_backends() -> None:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(env)
    assert result.exit_code == 0, result.output
    words = result.stdout.split()
    for expected in (__version__, torch.__version__, platform.python_version(), "cpu:", "hub"):
        assert expected in words
    assert f"  {Target.of_machine('cpu')}" in result.stdout.splitlines()
    assert "  hubkernels = fxkernels.entry_point:compile_graph" in result.stdout.splitlines()
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_env_as_json_has_the_same() -> None:
    value = json.loads(CliRunner(env={"FXKERNELS_FUEL": "3"}).invoke(env, ["--json"]).stdout)
    assert value["versions"]["torch"] == torch.__version__
    assert value["tested"]["torch"] == {"range": "2.11 to 2.15", "includes_installed": True}
    assert value["variables"]["FXKERNELS_FUEL"] == "3"
    assert set(value) == {"ok", "versions", "tested", "system", "devices", "targets", "directories", "variables", "backends"}


@pytest.mark.parametrize(
    ("name", "version", "shown"),
    [
        ("torch", "2.15.0+cu130", "2.15.0+cu130 (tested)"),
        ("torch", "2.16.0", "2.16.0 (not tested; 2.11 to 2.15 is)"),
        ("kernels", "0.18.2", "0.18.2 (not tested; 0.17 is)"),
        ("fxkernels", "0.1.0", "0.1.0"),
    ],
)
def test_each_version_is_shown_with_whether_it_was_tested(name: str, version: str, shown: str) -> None:
    assert shown_version(name, version) == shown


def test_no_token_is_shown() -> None:
    secrets = {"HF_TOKEN": TOKEN, "HUGGING_FACE_HUB_TOKEN": TOKEN, "FXKERNELS_LOCAL": f"/x/{TOKEN}/y"}
    for arguments in ([], ["--json"]):
        out = CliRunner(env=secrets).invoke(env, arguments).output
        assert "HF_TOKEN" in out
        assert TOKEN not in out


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("HF_TOKEN", "whatever", "(hidden)"),
        ("TORCHINDUCTOR_REDIS_PASSWORD", "whatever", "(hidden)"),
        ("HF_ENDPOINT", "https://me:secret@hub.example/api", "https://(hidden)@hub.example/api"),
        ("HF_HUB_OFFLINE", "1", "1"),
        ("FXKERNELS_CACHE", str(Path.home() / "cache"), "~/cache"),
        ("TORCH_LOGS", "+fxkernels", "+fxkernels"),
        ("CUDA_VISIBLE_DEVICES", "0,1", "0,1"),
    ],
)
def test_variables_are_shown_without_secrets(name: str, value: str, shown: str) -> None:
    assert shown_variables({name: value}) == {name: shown}


def test_variables_of_others_are_not_shown() -> None:
    assert shown_variables({"AWS_SECRET_ACCESS_KEY": "x", "PATH": "/bin", "MY_HF_TOKEN": "x"}) == {}
