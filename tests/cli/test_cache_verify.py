"""`fxkernels verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_commands import Run, answer, cached, change, project
from loopback import LoopbackHub
from published import kernel


@pytest.fixture
def locked(hub: LoopbackHub, run: Run) -> str:
    """A lock file of a repository that was downloaded; returns its commit's first digits."""
    commit = hub.add("acme/norms", kernel("torch-cpu", digests=True, more={"ops.so": b"x" * 1000}))
    project('"acme/norms" = 1')
    assert run("lock").exit_code == 0
    assert run("download", "--lockfile", "fxkernels.lock", "--for", "cpu").exit_code == 0
    return commit[:7]


@pytest.mark.parametrize("subject", ["fxkernels.lock", "acme/norms"])
def test_verify_finds_good_files_good_without_a_request(hub: LoopbackHub, run: Run, locked: str, subject: str) -> None:
    hub.stop()
    result = run("verify", subject)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [f"good    acme/norms@{locked} torch-cpu", "1 build: 1 good"]


@pytest.mark.parametrize("subject", ["fxkernels.lock", "acme/norms"])
@pytest.mark.parametrize("name", ["layers.py", "metadata.json", "ops.so"])
def test_verify_names_a_changed_file(run: Run, client: Any, locked: str, subject: str, name: str) -> None:
    file = cached(client, f"torch-cpu/{name}")
    change(file, file.read_bytes()[:-1] + b"!")
    result = run("verify", subject)
    assert result.exit_code == 1
    assert f"BAD     acme/norms@{locked} torch-cpu" in result.stdout
    assert name in result.stdout
    assert f"{subject}: 1 build is not as published or locked" in result.stderr
    (build,) = answer(run("verify", subject, "--json"))["builds"]
    assert (build["status"], build["variant"]) == ("bad", "torch-cpu")
    assert name in build["message"]


@pytest.mark.parametrize("subject", ["fxkernels.lock", "acme/norms"])
def test_verify_names_an_extra_file(run: Run, client: Any, locked: str, subject: str) -> None:
    cached(client, "torch-cpu/layers.py").with_name("evil.py").write_text("")
    result = run("verify", subject)
    assert result.exit_code == 1
    assert "evil.py" in result.stdout


def test_verify_checks_the_files_that_were_downloaded_of_a_build(hub: LoopbackHub, run: Run, client: Any) -> None:
    hub.add("acme/norms", kernel("torch-cpu", more={"ops.so": b"x" * 1000}))
    project('"acme/norms" = 1')
    run("lock")  # downloads all but the large file
    for subject in ("fxkernels.lock", "acme/norms"):
        result = run("verify", subject)
        assert result.exit_code == 0
        assert "3 of 4 files were downloaded" in result.stdout
    change(cached(client, "torch-cpu/layers.py"), b"import os\n")
    assert [run("verify", subject).exit_code for subject in ("fxkernels.lock", "acme/norms")] == [1, 1]


def test_verify_against_a_lock_of_other_files_or_another_commit_fails(hub: LoopbackHub, run: Run, locked: str) -> None:
    content = json.loads(Path("fxkernels.lock").read_text())
    content["repositories"][0]["variants"]["torch-cpu"]["layers.py"] = "0" * 64
    Path("other.lock").write_text(json.dumps(content))
    assert "layers.py" in run("verify", "other.lock").stdout
    content["repositories"][0]["commit"] = "0" * 40
    Path("other.lock").write_text(json.dumps(content))
    result = run("verify", "other.lock")
    assert result.exit_code == 1
    assert "absent" in result.stdout


def test_a_lock_without_digests_is_not_checked_and_says_so(hub: LoopbackHub, run: Run) -> None:
    commit = hub.add("acme/norms", kernel())
    run("download", "acme/norms", "--version", "1")
    entry = {"dependency": {"repo-id": "acme/norms", "version": 1}, "lock": {"commit": commit}}
    Path("kernels.lock").write_text(json.dumps([entry]))
    result = run("verify", "kernels.lock")
    assert result.exit_code == 1
    assert "UNKNOWN acme/norms" in result.stdout
    assert "kernels.lock has no digests" in result.stdout
    assert "1 build cannot be checked" in result.stderr


def test_verify_of_a_directory_uses_the_digests_in_its_metadata(run: Run, tmp_path: Path) -> None:
    for path, content in (kernel("torch-cpu", digests=True) | kernel("torch-cuda")).items():
        (tmp_path / "norms" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "norms" / path).write_bytes(content)
    result = run("verify", "./norms")
    assert result.exit_code == 1
    assert "good    norms torch-cpu" in result.stdout
    assert "torch-cuda\n        metadata.json has no digests to check the files against" in result.stdout
    (tmp_path / "norms/build/torch-cpu/layers.py").write_text("import os\n")
    assert "layers.py" in run("verify", "./norms").stdout


def test_verify_of_one_version_leaves_the_others_out(hub: LoopbackHub, run: Run) -> None:
    for version in (1, 2):
        hub.add("acme/norms", kernel(), version=version)
        run("download", "acme/norms", "--version", str(version))
    assert len(answer(run("verify", "acme/norms", "--json"))["builds"]) == 2
    assert len(answer(run("verify", "acme/norms", "--version", "2", "--json"))["builds"]) == 1
    assert run("verify", "acme/norms", "--version", "3").exit_code == 1
