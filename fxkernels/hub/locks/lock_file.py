"""Lock files as JSON: ``fxkernels.lock``, and ``kernels.lock``, the lock of the `kernels` package, which is read and never written.

An ``fxkernels.lock`` has one line per file of a build, in an order that depends on the content only.

A ``kernels.lock`` has two forms. From 0.17 on it is a list of ``{"dependency": {"repo-id", "version" or "revision"}, "lock": {"commit"}}``:
commits without digests. Before, it was a list of ``{"repo_id", "sha", "variants": {name: {"hash", "hash_type"}}}``, with one hash for all
files of a build, see `LockedHash`. The form for Nix has another ``hash`` beside the commit, of a directory that only Nix makes; it is not
checked.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ...cache_directory import write_atomically
from ...errors import RepositoryError
from ..builds.digests import Digests
from ..builds.paths import check_relative_path
from ..request import RepositoryRequest, commit_in, is_repo_id, request_in
from ..strict_json import JsonObject, read_limited
from .lock import Lock, LockedFiles, LockedHash, LockedRepository, LockedVariant, UnknownHash

LOCK_FILE = "fxkernels.lock"
_SIZE_LIMIT = 64 * 1024 * 1024
_MARK = "fxkernels-lock"
_FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


def read_lock(path: Path) -> Lock:
    """Return the lock in a file: an ``fxkernels.lock``, or a ``kernels.lock`` of the `kernels` package.

    Raises:
        RepositoryError: With code ``load_error``, naming the file and the key that is missing or wrong.
    """
    content = read_limited(path, _SIZE_LIMIT)
    if content is None:
        raise RepositoryError("load_error", f"there is no lock file {path}; `fxkernels lock` writes one")
    if content.lstrip()[:1] == b"[":
        return kernels_lock(content, str(path))
    return _lock(JsonObject.parse(content, str(path)))


def write_lock(lock: Lock, path: Path) -> None:
    """Write a lock as ``fxkernels.lock``, completely or not at all.

    Raises:
        OSError: If it cannot be written; what was there before is still there then.
        ValueError: If the lock comes from another tool and lacks what this file must have.
    """
    write_atomically(path, lock_text(lock))


def lock_text(lock: Lock) -> str:
    """Return the text of a lock file: equal locks have equal texts.

    Raises:
        ValueError: As `write_lock`.
    """
    content = {
        _MARK: _FORMAT,
        "requires": {request.repo_id: _state(request) for request in sorted(lock.requires, key=str)},
        "repositories": [_written(entry) for entry in sorted(lock.repositories, key=str)],
    }
    return json.dumps(content, indent=2) + "\n"


def _written(entry: LockedRepository) -> dict[str, Any]:
    if entry.request is None or entry.variants is None:
        raise ValueError(f"{entry} has no digests; lock it anew with `fxkernels lock`")
    variants = {}
    for variant, locked in sorted(entry.variants.items()):
        if not isinstance(locked, LockedFiles):
            raise ValueError(f"{entry} has no digests for the files of {variant}; lock it anew with `fxkernels lock`")
        variants[variant] = {path: digest.hex() for path, digest in sorted(locked.digests.files.items())}
    return {"repository": entry.repo_id, **_state(entry.request), "commit": entry.commit, "variants": variants}


def _state(request: RepositoryRequest) -> dict[str, Any]:
    return {"version": request.version} if request.version is not None else {"revision": request.revision}


def _lock(fields: JsonObject) -> Lock:
    if _MARK not in fields.values:
        raise RepositoryError("load_error", f"{fields.where} is no lock file: it lacks the key {_MARK!r}")
    if fields.values[_MARK] != _FORMAT:
        newer = f"a format that this version of fxkernels can read, which is {_FORMAT}; update fxkernels, or run `fxkernels lock`"
        raise fields.refusal(_MARK, newer)
    _check_keys(fields, {_MARK, "requires", "repositories"})
    requires = fields.object("requires")
    entries = tuple(_entry(entry) for entry in fields.objects("repositories"))
    names = [str(entry) for entry in entries]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise RepositoryError("load_error", f"{fields.where}: key 'repositories[{index}]' is {name}, which is there already")
    lock = Lock(fields.where, entries, tuple(request_in(requires.object(name), name) for name in requires.values))
    for request in lock.requires:
        if str(request) not in names:
            raise RepositoryError(
                "load_error", f"{fields.where}: key 'requires.{request.repo_id}' is {request}, which 'repositories' lacks"
            )
    return lock


def _entry(fields: JsonObject) -> LockedRepository:
    _check_keys(fields, {"repository", "version", "revision", "commit", "variants"})
    repo_id = fields.text("repository", 'a repository such as "acme/norms"')
    variants = fields.object("variants", "an object with the files of each build")
    commit, request = commit_in(fields, "commit"), request_in(fields, repo_id)
    return LockedRepository(repo_id, commit, request, {name: _variant(variants, name) for name in variants.values})


def _variant(variants: JsonObject, name: str) -> LockedVariant:
    where = f"{variants.where}: key {variants.name!r}"
    if "/" in check_relative_path(name, where):
        raise RepositoryError("load_error", f"{where} has {name!r}, which is no name of a build variant")
    files = variants.object(name, "an object that has a path and a digest for each file")
    expected = "the file's SHA-256 in hexadecimal digits"
    digests = {check_relative_path(path, where): bytes.fromhex(files.text(path, expected, _SHA256)) for path in files.values}
    return LockedFiles(Digests("sha256", digests))


def _check_keys(fields: JsonObject, known: set[str]) -> None:
    # An unknown key could be a restriction.
    for key in fields.values:
        if key not in known:
            raise RepositoryError(
                "load_error", f"{fields.where}: key {fields.prefix + key!r} is not known; known are: {', '.join(sorted(known))}"
            )


_KERNELS_HASH = re.compile(r"sha256-([0-9a-f]{64})")
_KERNELS_HASH_TYPE = "git_lfs_concat"


def kernels_lock(content: bytes, where: str) -> Lock:
    """Return the lock that the content of a ``kernels.lock`` is.

    Raises:
        RepositoryError: With code ``load_error``, naming the file and the key that is missing or wrong.
    """
    # As the value of a key, a list is read as strictly as an object.
    fields = JsonObject.parse(b'{"repositories": ' + content + b"}", where)
    if fields.values.keys() != {"repositories"}:
        raise RepositoryError("load_error", f"{where} cannot be read as JSON: something follows the list")
    entries = [_kernels_entry(entry) for entry in fields.objects("repositories")]
    return Lock(where, tuple(sorted(entries, key=str)))


def _kernels_entry(fields: JsonObject) -> LockedRepository:
    if fields.has("dependency"):
        request, lock = fields.object("dependency"), fields.object("lock")
        repo_id = request.text("repo-id")
        return LockedRepository(repo_id, commit_in(lock, "commit"), request_in(request, repo_id), None)
    if fields.has("repo_id"):
        return _entry_with_hashes(fields)
    raise RepositoryError(
        "load_error", f"{fields.where}: key {fields.name!r} is no entry of a kernels.lock: it has neither 'dependency' nor 'repo_id'"
    )


def _entry_with_hashes(fields: JsonObject) -> LockedRepository:
    repo_id = fields.text("repo_id")
    if not is_repo_id(repo_id):
        raise fields.refusal("repo_id", 'a repository such as "acme/norms"')
    variants = fields.object("variants", "an object with a hash for each build")
    hashes = {name: _kernels_hash(variants.object(name)) for name in variants.values}
    return LockedRepository(repo_id, commit_in(fields, "sha"), None, hashes)


def _kernels_hash(fields: JsonObject) -> LockedVariant:
    text, kind = fields.text("hash"), fields.text("hash_type") if fields.has("hash_type") else _KERNELS_HASH_TYPE
    match = _KERNELS_HASH.fullmatch(text)
    if kind != _KERNELS_HASH_TYPE or match is None:
        return UnknownHash(f"{fields.where} has the hash {text!r} of type {kind!r} for it, which is not known")
    return LockedHash(bytes.fromhex(match[1]))
