"""Lock files: what is written is read again, what is damaged is named, what is not in them is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from kernels._rust import KernelDependency as PeerDependency
from kernels._rust import KernelLock as PeerLock
from kernels._rust import KernelLocks as PeerLocks
from kernels._rust import KernelVersion as PeerVersion

from fxkernels.errors import RepositoryError
from fxkernels.hub import RepositoryRequest
from fxkernels.hub.builds.digests import Digests
from fxkernels.hub.locks.lock import Lock, LockedFiles, LockedHash, LockedRepository
from fxkernels.hub.locks.lock_file import lock_text, read_lock, write_lock

COMMIT, OTHER = "9a31f0c5" * 5, "0123abcd" * 5


def locked(repo_id: str, commit: str = COMMIT, *, version: int | None = 1, revision: str | None = None, **files: bytes) -> LockedRepository:
    digests = {name.replace("_py", ".py"): hashlib.sha256(content).digest() for name, content in files.items()}
    variants = {"torch-universal": LockedFiles(Digests("sha256", MappingProxyType(digests)))}
    request = RepositoryRequest(repo_id, version=None if revision else version, revision=revision)
    return LockedRepository(repo_id, commit, request, MappingProxyType(variants))


NORMS = locked("acme/norms", layers_py=b"norms", init_py=b"")
ROTARY = locked("acme/rotary", OTHER, revision="main", layers_py=b"rotary")
LOCK = Lock("fxkernels.lock", (NORMS, ROTARY), (RepositoryRequest("acme/norms", version=1),))


def refusal(action: Callable[[], object], code: str) -> str:
    with pytest.raises(RepositoryError) as caught:
        action()
    assert caught.value.code == code
    return str(caught.value)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- our own file -----------------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "fxkernels.lock"
    write_lock(LOCK, path)
    lock = read_lock(path)
    assert lock.repositories == LOCK.repositories
    assert lock.requires == LOCK.requires
    assert lock.where == str(path)


def test_the_text_is_sorted_with_one_line_per_file() -> None:
    text = lock_text(LOCK)
    shuffled = Lock("elsewhere", (ROTARY, locked("acme/norms", init_py=b"", layers_py=b"norms")), LOCK.requires)
    assert lock_text(shuffled) == text
    assert json.loads(text) == {
        "fxkernels-lock": 1,
        "requires": {"acme/norms": {"version": 1}},
        "repositories": [
            {
                "repository": "acme/norms",
                "version": 1,
                "commit": COMMIT,
                "variants": {"torch-universal": {"init.py": sha256(b""), "layers.py": sha256(b"norms")}},
            },
            {
                "repository": "acme/rotary",
                "revision": "main",
                "commit": OTHER,
                "variants": {"torch-universal": {"layers.py": sha256(b"rotary")}},
            },
        ],
    }
    assert f'        "layers.py": "{sha256(b"norms")}"\n' in text
    assert text.endswith("}\n")


def test_another_file_of_a_build_is_another_line_and_nothing_else(tmp_path: Path) -> None:
    more = Lock("", (locked("acme/norms", init_py=b"", layers_py=b"norms", a_py=b"new"), ROTARY), LOCK.requires)
    before, after = lock_text(LOCK).splitlines(), lock_text(more).splitlines()
    assert [line for line in after if line not in before] == [f'          "a.py": "{sha256(b"new")}",']


def written(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = json.loads(lock_text(LOCK))
    change(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.update({"fxkernels-lock": 2}),
            "key 'fxkernels-lock' is 2, it must be a format that this version of fxkernels can read",
        ),
        (lambda c: c.pop("fxkernels-lock"), "is no lock file: it lacks the key 'fxkernels-lock'"),
        (lambda c: c.pop("requires"), "lacks the key 'requires'"),
        (lambda c: c.pop("repositories"), "lacks the key 'repositories'"),
        (lambda c: c.update(signature="x"), "key 'signature' is not known; known are: fxkernels-lock, repositories, requires"),
        (lambda c: c["repositories"][1].pop("commit"), "lacks the key 'repositories[1].commit'"),
        (lambda c: c["repositories"][1].update(commit="main"), "key 'repositories[1].commit' is 'main', it must be a full commit"),
        (lambda c: c["repositories"][0].update(commit=COMMIT.upper()), "it must be a full commit, 40 hexadecimal digits"),
        (lambda c: c["repositories"][0].update(repository="../x"), "key 'repositories[0]' cannot be used: '../x' is no repository"),
        (lambda c: c["repositories"][0].update(revision="main"), "version 1 and revision 'main'; give one of the two"),
        (lambda c: c["repositories"][0].pop("version"), "neither a version nor a revision"),
        (lambda c: c["repositories"][0].update(version="1"), "key 'repositories[0].version' is '1', it must be an integer"),
        (lambda c: c["repositories"][0].update(files={}), "key 'repositories[0].files' is not known"),
        (lambda c: c["repositories"].append(c["repositories"][0]), "key 'repositories[2]' is acme/norms@v1, which is there already"),
        (lambda c: c["repositories"].pop(0), "key 'requires.acme/norms' is acme/norms@v1, which 'repositories' lacks"),
        (lambda c: c["repositories"][0].update(variants=[]), "key 'repositories[0].variants' is [], it must be an object"),
        (lambda c: c["repositories"][0]["variants"].update({"../x": {}}), "leaves its directory"),
        (lambda c: c["repositories"][0]["variants"].update({"a/b": {}}), "is no name of a build variant"),
        (lambda c: c["repositories"][0]["variants"]["torch-universal"].update({"/etc/x.py": "0" * 64}), "'/etc/x.py' is absolute"),
        (lambda c: c["repositories"][0]["variants"]["torch-universal"].update({"layers.py": "00"}), "it must be the file's SHA-256"),
        (lambda c: c["repositories"][0]["variants"]["torch-universal"].update({"layers.py": None}), "it must be the file's SHA-256"),
    ],
)
def test_a_damaged_lock_is_an_error_that_names_file_and_key(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = written(tmp_path / "fxkernels.lock", change)
    error = refusal(lambda: read_lock(path), "load_error")
    assert str(path) in error
    assert message in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as JSON"),
        (b"<<<<<<< HEAD\n{}", "cannot be read as JSON"),
        (b'{"fxkernels-lock": 1, "fxkernels-lock": 1}', "is in one object twice"),
        (b"1", "it must hold an object"),
        (b'[], "more": []', "something follows the list"),
        (b'[{"repo_id": "a/b", "repo_id": "a/b"}]', "is in one object twice"),
    ],
)
def test_a_file_that_is_no_lock_is_an_error_that_names_it(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "fxkernels.lock"
    path.write_bytes(content)
    error = refusal(lambda: read_lock(path), "load_error")
    assert str(path) in error
    assert message in error


def test_a_lock_file_that_does_not_exist_is_an_error_that_says_how_to_get_one(tmp_path: Path) -> None:
    assert "there is no lock file" in refusal(lambda: read_lock(tmp_path / "fxkernels.lock"), "load_error")
    assert "cannot be read" in refusal(lambda: read_lock(tmp_path), "load_error")


# --- what is in a lock ------------------------------------------------------------------------------------------------------------------


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


# --- files ------------------------------------------------------------------------------------------------------------------------------


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


# --- the peer's file --------------------------------------------------------------------------------------------------------------------


def peer_file(path: Path) -> Path:
    dependencies = {
        PeerDependency(repo_id="acme/rotary", version=PeerVersion.Revision("main")): PeerLock(OTHER),
        PeerDependency(repo_id="acme/norms", version=PeerVersion.Version(1)): PeerLock(COMMIT),
    }
    path.write_text(PeerLocks(dependencies).to_json())
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
