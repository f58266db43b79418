"""Writing locks: from the table in pyproject.toml, over the Hub, to commits and digests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback import LoopbackHub
from published import kernel

from fxkernels.errors import RepositoryError
from fxkernels.hub import RepositoryRequest, lock_kernels, required_kernels
from fxkernels.hub.lock import Lock, LockedFiles
from fxkernels.hub.lock_file import lock_text


def build(
    kernel_id: str, variant: str = "torch-universal", *, depends: tuple[dict[str, Any], ...] = (), **files: bytes
) -> dict[str, bytes]:
    return kernel(variant, metadata={"id": kernel_id, "kernel-depends": list(depends)}, more=files)


def lock(*requires: RepositoryRequest, **options: Any) -> Lock:
    return lock_kernels(requires, "fxkernels.lock", **options)[0]


def refusal(action: Callable[[], object], code: str) -> str:
    with pytest.raises(RepositoryError) as caught:
        action()
    assert caught.value.code == code
    return str(caught.value)


def digests(entry: Any, variant: str) -> dict[str, str]:
    locked = entry.variants[variant]
    assert isinstance(locked, LockedFiles)
    return {path: digest.hex() for path, digest in locked.digests.files.items()}


NORMS = RepositoryRequest("acme/norms", version=1)


# --- the project's table ----------------------------------------------------------------------------------------------------------------


def test_a_kernel_is_named_by_version_or_revision_in_full_or_in_short(tmp_path: Path) -> None:
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(
        """
        [tool.fxkernels.kernels]
        "acme/rotary" = { revision = "main" }
        "acme/norms" = { version = 1 }
        "acme/conv" = 2
        "acme/mlp" = "9a31f0c"
        """
    )
    assert list(map(str, required_kernels(pyproject))) == ["acme/conv@v2", "acme/mlp@9a31f0c", "acme/norms@v1", "acme/rotary@main"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no table [tool.fxkernels.kernels]"),
        ("[tool.fxkernels]\nkernels = 1", "[tool.fxkernels.kernels] names no kernels"),
        ("[tool.fxkernels.kernels]", 'they are lines such as "acme/norms" = { version = 1 }'),
        ("[tool", "cannot be read as TOML"),
        ('[tool.fxkernels.kernels]\n"acme/norms" = {}', "has neither a version nor a revision"),
        ('[tool.fxkernels.kernels]\n"acme/norms" = { version = 1, revision = "x" }', "version 1 and revision 'x'; give one of the two"),
        ('[tool.fxkernels.kernels]\n"acme/norms" = { version = "1" }', "has the version '1'; versions are the numbers"),
        ('[tool.fxkernels.kernels]\n"acme/norms" = -1', "has the version -1"),
        ('[tool.fxkernels.kernels]\n"acme/norms" = true', "is True; write a line such as"),
        ('[tool.fxkernels.kernels]\n"acme/norms" = { revision = 1 }', "has the revision 1"),
        ('[tool.fxkernels.kernels]\n"acme/norms" = "../x"', "which is no name of a commit, tag or branch"),
        ('[tool.fxkernels.kernels]\n"acme/norms" = { verison = 1 }', "has the key 'verison'; it may have 'version' or 'revision'"),
        ("[tool.fxkernels.kernels]\nnorms = 1", "'norms' is no repository on the Hub"),
    ],
)
def test_a_table_that_makes_no_sense_is_a_value_error_that_names_file_and_key(tmp_path: Path, content: str, message: str) -> None:
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(content)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is checked below
        required_kernels(pyproject)
    assert message in str(caught.value)
    assert str(pyproject) in str(caught.value)
    assert "acme/norms" not in content or '"acme/norms" in [tool.fxkernels.kernels]' in str(caught.value)


# --- the lock ---------------------------------------------------------------------------------------------------------------------------


def test_a_lock_has_the_commit_and_the_digest_of_every_file_of_every_build(hub: LoopbackHub, client: Any) -> None:
    files = build("norms_a", "torch-cpu") | build("norms_b", "torch213-cxx11-cu130-x86_64-linux", **{"ops.so": b"\x7fELF" * 1000})
    commit = hub.add("acme/norms", files | {"README.md": b"text", "build/torch-cpu/__pycache__/layers.cpython-311.pyc": b"bytes"})
    (entry,) = lock(NORMS).repositories
    assert (entry.request, entry.commit) == (NORMS, commit)
    assert sorted(entry.variants or ()) == ["torch-cpu", "torch213-cxx11-cu130-x86_64-linux"]
    for variant in entry.variants or ():
        expected = {
            path.removeprefix(f"build/{variant}/"): hashlib.sha256(content).hexdigest()
            for path, content in files.items()
            if path.startswith(f"build/{variant}/")
        }
        assert digests(entry, variant) == expected


def test_large_files_are_not_downloaded_to_be_locked(hub: LoopbackHub, client: Any) -> None:
    hub.add("acme/norms", build("norms_a", **{"ops.so": b"\x7fELF" * 1000}))
    lock(NORMS)
    assert not any(path.endswith(".so") for path in hub.downloads())
    assert "build/torch-universal/layers.py" in hub.downloads()


def test_dependencies_of_every_build_are_locked_and_theirs(hub: LoopbackHub, client: Any) -> None:
    hub.add("acme/base", build("base_a"), version=3)
    middle = hub.add("acme/middle", build("middle_a", depends=({"repo-id": "acme/base", "version": 3},)), branch="stable")
    one = build("norms_a", "torch-cpu", depends=({"repo-id": "acme/middle", "revision": "stable"},))
    other = build("norms_b", "torch-cuda", depends=({"repo-id": "acme/middle", "revision": middle},))
    hub.add("acme/norms", one | other)
    found = lock(NORMS)
    assert [str(entry) for entry in found.repositories] == ["acme/base@v3", f"acme/middle@{middle}", "acme/middle@stable", "acme/norms@v1"]
    assert found.requires == (NORMS,)


def test_kernels_that_depend_on_each_other_end_the_walk(hub: LoopbackHub, client: Any) -> None:
    hub.add("acme/norms", build("norms_a", depends=({"repo-id": "acme/other", "version": 1},)))
    hub.add("acme/other", build("other_a", depends=({"repo-id": "acme/norms", "version": 1},)))
    assert len(lock(NORMS).repositories) == 2


def test_the_same_state_of_the_hub_gives_the_same_text(hub: LoopbackHub, client: Any) -> None:
    hub.add("acme/norms", build("norms_a", "torch-cuda") | build("norms_b", "torch-cpu"))
    hub.add("acme/rotary", build("rotary_a"))
    rotary = RepositoryRequest("acme/rotary", version=1)
    assert lock_text(lock(NORMS, rotary)) == lock_text(lock(rotary, NORMS))


def test_what_is_not_trusted_is_not_locked_dependencies_included(hub: LoopbackHub, client: Any) -> None:
    hub.add("evil/base", build("base_a"), trusted=False)
    hub.add("acme/norms", build("norms_a", depends=({"repo-id": "evil/base", "version": 1},)))
    assert "evil is not a trusted publisher" in refusal(lambda: lock(NORMS), "untrusted")
    assert not any("evil" in request.path and "resolve" in request.path for request in hub.requests)
    assert len(lock(NORMS, trust_remote_code=["evil/base"]).repositories) == 2


def test_a_build_that_cannot_be_loaded_is_left_out_with_a_note(hub: LoopbackHub, client: Any) -> None:
    hub.add("acme/norms", build("norms_a", "torch-cpu") | {"build/torch29-cxx11-cpu-x86_64-linux/__init__.py": b""})
    lock, (note,) = lock_kernels((NORMS,), "fxkernels.lock")
    (entry,) = lock.repositories
    assert list(entry.variants or ()) == ["torch-cpu"]
    assert "build torch29-cxx11-cpu-x86_64-linux of acme/norms@v1 cannot be loaded and is left out" in note
    assert "metadata.json" in note


def test_a_repository_without_a_build_that_can_be_loaded_is_an_error(hub: LoopbackHub, client: Any) -> None:
    hub.add("acme/norms", {"build/torch-cpu/__init__.py": b""})
    message = refusal(lambda: lock(NORMS), "load_error")
    assert "acme/norms@v1 has no build that can be loaded" in message
    assert "torch-cpu" in message


def test_a_file_that_arrives_changed_is_not_locked(hub: LoopbackHub, client: Any) -> None:
    hub.add("acme/norms", build("norms_a"))
    hub.fail("*/resolve/*/layers.py", method="GET", change=lambda body: b"y" * len(body))
    assert "layers.py" in refusal(lambda: lock(NORMS), "digest")
    hub.faults.clear()
    assert len(lock(NORMS).repositories) == 1


def test_a_cached_file_that_was_changed_is_not_locked(hub: LoopbackHub, client: Any) -> None:
    hub.add("acme/norms", build("norms_a", **{"layers.py": b"x = 1\n"}))
    before = lock(NORMS)
    (layers,) = client.folder("acme/norms").glob("snapshots/*/build/*/layers.py")
    layers.resolve().chmod(0o644)
    layers.resolve().write_bytes(b"x = 2\n")
    assert "layers.py" in refusal(lambda: lock(NORMS), "digest")
    layers.resolve().write_bytes(b"x = 1\n")
    assert lock(NORMS) == before
