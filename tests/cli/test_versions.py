"""`fxkernels versions`."""

from __future__ import annotations

from hub_commands import Run, answer, fits
from loopback import LoopbackHub
from published import kernel


def test_versions_lists_commits_and_says_which_are_cached(hub: LoopbackHub, run: Run) -> None:
    first, second = hub.add("acme/norms", kernel()), hub.add("acme/norms", kernel(), version=12)
    assert run("download", "acme/norms", "--version", "1").exit_code == 0
    result = run("versions", "acme/norms")
    assert result.stdout.splitlines() == ["acme/norms", f"  version 1    {first}  in the cache", f"  version 12   {second}"]
    assert fits(result)
    assert answer(run("versions", "acme/norms", "--json"))["versions"] == [
        {"version": 1, "commit": first, "cached": True},
        {"version": 12, "commit": second, "cached": False},
    ]


def test_a_repository_without_versions_is_exit_code_1(hub: LoopbackHub, run: Run) -> None:
    hub.add("acme/norms", kernel(), version=None)
    result = run("versions", "acme/norms")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "acme/norms has no versions (branches v1, v2 ...)" in result.stderr
