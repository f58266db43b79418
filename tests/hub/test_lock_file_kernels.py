"""``kernels.lock``: what the `kernels` package has written is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from refusals import refusal

from fxkernels.hub import RepositoryRequest, read_lock
from fxkernels.hub.lock import LockedHash
from fxkernels.hub.lock_file import lock_text

peer = pytest.importorskip("kernels._rust")

COMMIT, OTHER = "9a31f0c5" * 5, "0123abcd" * 5


def peer_file(path: Path) -> Path:
    peer = pytest.importorskip("kernels._rust")
    dependencies = {
        peer.KernelDependency(repo_id="acme/rotary", version=peer.KernelVersion.Revision("main")): peer.KernelLock(OTHER),
        peer.KernelDependency(repo_id="acme/norms", version=peer.KernelVersion.Version(1)): peer.KernelLock(COMMIT),
    }
    path.write_text(peer.KernelLocks(dependencies).to_json())
    return path


def test_a_lock_that_the_kernels_package_wrote_gives_the_commits_and_no_digests(tmp_path: Path) -> None:
    lock = read_lock(peer_file(tmp_path / "kernels.lock"))
    assert [(str(entry), entry.commit, entry.variants) for entry in lock.repositories] == [
        ("acme/norms@v1", COMMIT, None),
        ("acme/rotary@main", OTHER, None),
    ]
    assert lock.find(RepositoryRequest("acme/norms", version=1)).commit == COMMIT
    with pytest.raises(ValueError, match="acme/norms@v1 has no digests; lock it anew with `fxkernels lock`"):
        lock_text(lock)


def older_peer_file(path: Path, **changes: Any) -> Path:
    entry = {
        "repo_id": "acme/norms",
        "sha": COMMIT,
        "variants": {"torch-universal": {"hash": "sha256-" + "0" * 64, "hash_type": "git_lfs_concat"}},
    }
    path.write_text(json.dumps([entry | changes]))
    return path


def test_an_older_lock_of_the_kernels_package_gives_commits_and_a_hash_per_build(tmp_path: Path) -> None:
    (entry,) = read_lock(older_peer_file(tmp_path / "kernels.lock")).repositories
    assert (str(entry), entry.commit, entry.request) == ("acme/norms@9a31f0c", COMMIT, None)
    assert entry.variants == {"torch-universal": LockedHash(bytes(32))}


def test_an_older_lock_does_not_say_which_version_it_locked_so_only_its_commit_is_accepted(tmp_path: Path) -> None:
    lock = read_lock(older_peer_file(tmp_path / "kernels.lock"))
    assert lock.find_required("acme/norms").commit == COMMIT
    assert lock.find(RepositoryRequest("acme/norms", revision=COMMIT)).commit == COMMIT
    refusal(lambda: lock.find(RepositoryRequest("acme/norms", version=1)), "untrusted")


@pytest.mark.parametrize("build", [{"hash": "sha256-" + "0" * 64, "hash_type": "other"}, {"hash": "md5-00"}, {"hash": "sha256-00"}])
def test_a_hash_of_an_unknown_kind_is_refused_and_not_passed_over(tmp_path: Path, build: dict[str, str]) -> None:
    (entry,) = read_lock(older_peer_file(tmp_path / "kernels.lock", variants={"torch-universal": build})).repositories
    assert entry.variants is not None
    message = refusal(lambda: entry.variants["torch-universal"].verify({}, "acme/norms (torch-universal)"), "digest")
    assert "acme/norms (torch-universal) cannot be checked" in message
    assert build["hash"] in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{}], "key 'repositories[0]' is no entry of a kernels.lock"),
        ([1], "it must be a list of objects"),
        ([{"dependency": {"repo-id": "acme/norms", "version": 1}}], "lacks the key 'repositories[0].lock'"),
        ([{"dependency": {"repo-id": "acme/norms"}, "lock": {"commit": COMMIT}}], "neither a version nor a revision"),
        ([{"dependency": {"repo-id": "acme/norms", "version": 1}, "lock": {"commit": "x"}}], "'repositories[0].lock.commit' is 'x'"),
        ([{"repo_id": "../x", "sha": COMMIT, "variants": {}}], "key 'repositories[0].repo_id' is '../x'"),
        ([{"repo_id": "acme/norms", "sha": COMMIT}], "lacks the key 'repositories[0].variants'"),
    ],
)
def test_a_damaged_lock_of_the_kernels_package_is_an_error_that_names_file_and_key(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "kernels.lock"
    path.write_text(json.dumps(content))
    error = refusal(lambda: read_lock(path), "load_error")
    assert str(path) in error
    assert message in error
