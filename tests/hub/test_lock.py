"""Locks: what is in them is found, and what is not is refused; the files of a build are checked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from locks import COMMIT, LOCK, NORMS, OTHER, ROTARY, locked
from refusals import refusal

from fxkernels.hub import Lock, RepositoryRequest
from fxkernels.hub.lock import LockedHash


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- repositories --------------------------------------------------------------------------------------------------------------------


def test_a_repository_is_found_by_what_was_asked_for_and_by_its_commit() -> None:
    assert LOCK.find(RepositoryRequest("acme/norms", version=1)) is NORMS
    assert LOCK.find(RepositoryRequest("acme/norms", revision=COMMIT)) is NORMS
    assert LOCK.find(RepositoryRequest("acme/rotary", revision="main")) is ROTARY


@pytest.mark.parametrize("wanted", [{"version": 2}, {"revision": "main"}, {"revision": OTHER}, {"revision": "v1"}])
def test_another_state_of_a_locked_repository_is_refused(wanted: dict[str, Any]) -> None:
    message = refusal(lambda: LOCK.find(RepositoryRequest("acme/norms", **wanted)), "untrusted")
    assert "is not in fxkernels.lock; it has acme/norms@v1 instead" in message
    assert "`fxkernels lock`" in message


def test_a_repository_that_is_not_locked_is_refused() -> None:
    message = refusal(lambda: LOCK.find(RepositoryRequest("acme/other", version=1)), "untrusted")
    assert "acme/other@v1 is not in fxkernels.lock; it has: acme/norms@v1, acme/rotary@main" in message
    assert "it has: nothing" in refusal(lambda: Lock("x.lock", ()).find_required("acme/norms"), "untrusted")


def test_by_name_alone_the_state_that_the_project_requires_is_found_not_that_of_a_dependency() -> None:
    newer = locked("acme/norms", OTHER, version=2)
    assert Lock("x", (newer, NORMS), LOCK.requires).find_required("acme/norms") is NORMS
    assert LOCK.find_required("acme/rotary") is ROTARY
    message = refusal(lambda: Lock("x", (newer, NORMS)).find_required("acme/norms"), "untrusted")
    assert "it has acme/norms@v2, acme/norms@v1 as dependencies of others" in message


# --- files ---------------------------------------------------------------------------------------------------------------------------


def files(directory: Path, **contents: bytes) -> dict[str, Path]:
    paths = {}
    for name, content in contents.items():
        path = paths[name.replace("_py", ".py")] = directory / name.replace("_py", ".py")
        path.write_bytes(content)
    return paths


def test_the_locked_files_pass_and_no_others(tmp_path: Path) -> None:
    assert NORMS.variants is not None
    build = NORMS.variants["torch-universal"]
    build.verify(files(tmp_path, init_py=b"", layers_py=b"norms"), "acme/norms")
    changed = refusal(lambda: build.verify(files(tmp_path, init_py=b"", layers_py=b"tampered"), "acme/norms"), "digest")
    assert "layers.py" in changed
    missing = refusal(lambda: build.verify(files(tmp_path, init_py=b""), "acme/norms"), "digest")
    assert "layers.py is missing" in missing
    more = refusal(lambda: build.verify(files(tmp_path, init_py=b"", layers_py=b"norms", evil_py=b""), "acme/norms"), "digest")
    assert "evil.py" in more


def test_metadata_and_its_signature_are_files_like_any_other(tmp_path: Path) -> None:
    assert NORMS.variants is not None
    paths = files(tmp_path, init_py=b"", layers_py=b"norms")
    for name in ("metadata.json", "metadata.json.sigstore"):
        (tmp_path / name).write_text("{}")
        error = refusal(lambda more=name: NORMS.variants["torch-universal"].verify(paths | {more: tmp_path / more}, "here"), "digest")
        assert name in error


def test_the_hash_of_a_build_is_that_of_names_and_git_hashes_in_the_order_of_the_names(tmp_path: Path) -> None:
    small, large = b"import torch\n", b"\x7fELF" * 100
    git = hashlib.sha1(b"blob %d\0" % len(small) + small)
    lfs = hashlib.sha256(large)
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for digest, content in ((git, small), (lfs, large)):
        (blobs / digest.hexdigest()).write_bytes(content)
    paths = {"ops.so": blobs / lfs.hexdigest(), "__init__.py": blobs / git.hexdigest()}
    expected = hashlib.sha256(b"__init__.py" + git.digest() + b"ops.so" + lfs.digest()).digest()
    LockedHash(expected).verify(paths, "here")
    (blobs / git.hexdigest()).write_bytes(b"import os\n")
    assert "here is not the build that was locked" in refusal(lambda: LockedHash(expected).verify(paths, "here"), "digest")


def test_a_hash_of_a_build_outside_the_cache_cannot_be_checked_and_is_refused(tmp_path: Path) -> None:
    message = refusal(lambda: LockedHash(bytes(32)).verify(files(tmp_path, layers_py=b""), "here"), "digest")
    assert "here cannot be checked" in message
    assert "layers.py is not a file of the Hub's cache" in message
