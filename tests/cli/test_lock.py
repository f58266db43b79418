"""`fxkernels lock`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_commands import Run, answer, project
from loopback import LoopbackHub
from published import kernel

from fxkernels.hub import forget_resolved


def test_lock_writes_the_file_and_says_what_has_changed(hub: LoopbackHub, run: Run) -> None:
    first, other = hub.add("acme/norms", kernel()), hub.add("acme/other", kernel())
    project('"acme/norms" = { version = 1 }', '"acme/other" = { revision = "main" }')
    result = run("lock")
    assert result.stdout.splitlines() == [
        "fxkernels.lock: 2 repositories",
        f"  + acme/norms@v1 {first[:7]}",
        f"  + acme/other@main {other[:7]}",
    ]
    text = Path("fxkernels.lock").read_text()
    assert run("lock").stdout.splitlines() == ["fxkernels.lock: 2 repositories", "  nothing has changed"]
    assert Path("fxkernels.lock").read_text() == text
    second = hub.add("acme/norms", kernel())
    project('"acme/norms" = 1')
    forget_resolved()
    content = answer(run("lock", ".", "--json"))
    assert content["changes"] == [f"* acme/norms@v1 {first[:7]} -> {second[:7]}", f"- acme/other@main {other[:7]}"]
    assert content["repositories"] == [{"repository": "acme/norms", "name": "acme/norms@v1", "commit": second}]


def test_lock_check_compares_with_pyproject_without_the_network(hub: LoopbackHub, run: Run, request: pytest.FixtureRequest) -> None:
    hub.add("acme/norms", kernel())
    project('"acme/norms" = 1')
    assert "there is no lock file" in run("lock", "--check").stderr
    run("lock")
    request.getfixturevalue("offline")
    assert run("lock", "--check").exit_code == 0
    project('"acme/norms" = 2', '"acme/other" = 1')
    result = run("lock", "--check", "--json")
    assert result.exit_code == 1
    assert (answer(result)["missing"], answer(result)["extra"]) == (["acme/norms@v2", "acme/other@v1"], ["acme/norms@v1"])


def test_a_lock_file_that_cannot_be_read_is_replaced_with_a_note(hub: LoopbackHub, run: Run) -> None:
    hub.add("acme/norms", kernel())
    project('"acme/norms" = 1')
    Path("fxkernels.lock").write_text("<<<<<<< HEAD\n")
    result = run("lock")
    assert result.exit_code == 0
    assert "Note: the lock file that was there is replaced" in result.stdout
    assert run("lock", "--check").exit_code == 0


def test_a_lock_that_fails_leaves_the_old_file(hub: LoopbackHub, run: Run) -> None:
    hub.add("acme/norms", kernel())
    project('"acme/norms" = 1')
    run("lock")
    before = Path("fxkernels.lock").read_text()
    hub.add("evil/norms", kernel(), trusted=False)
    project('"acme/norms" = 1', '"evil/norms" = 1')
    assert run("lock").exit_code == 1
    assert Path("fxkernels.lock").read_text() == before
    assert run("lock", "--trust", "evil/norms").exit_code == 0
