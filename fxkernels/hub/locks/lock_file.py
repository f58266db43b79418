"""``fxkernels.lock``: a lock as JSON, one line per file of a build, in an order that depends on nothing but the content."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...cache_directory import write_atomically
from ...errors import RepositoryError
from ..builds.json_fields import JsonObject
from ..builds.kernel_dependency import KernelDependency
from ..builds.metadata import Digests
from ..builds.strict_json import parse_object, read_limited
from ..integrity.paths import check_relative_path
from .lock import Lock, LockedFiles, LockedRepository, LockedVariant
from .peer_lock import peer_lock

FILE_NAME = "fxkernels.lock"
PEER_FILE_NAME = "kernels.lock"
_SIZE_LIMIT = 64 * 1024 * 1024
_MARK = "fxkernels-lock"
_FORMAT = 1
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def read_lock(path: Path) -> Lock:
    """Return the lock in a file: an ``fxkernels.lock``, or a ``kernels.lock`` of the `kernels` package.

    Raises:
        RepositoryError: With code ``load_error``, naming the file and the key that is missing or wrong.
    """
    try:
        content = read_limited(path, _SIZE_LIMIT)
    except FileNotFoundError:
        raise RepositoryError("load_error", f"there is no lock file {path}; `fxkernels lock` writes one") from None
    except (OSError, ValueError) as error:
        raise RepositoryError("load_error", f"{path} cannot be read: {error}") from error
    try:
        if content.lstrip()[:1] == b"[":
            # A list is the peer's. In an object it can be read as strictly as ours.
            return _peer_lock(parse_object(b'{"repositories": ' + content + b"}"), str(path))
        values = parse_object(content)
    except ValueError as error:
        raise RepositoryError("load_error", f"{path} cannot be read as JSON: {error}") from error
    return _lock(JsonObject(str(path), values))


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


def _peer_lock(values: dict[str, Any], where: str) -> Lock:
    if values.keys() != {"repositories"}:
        raise ValueError("something follows the list")
    return peer_lock(values, where)


def _written(entry: LockedRepository) -> dict[str, Any]:
    if entry.request is None or entry.variants is None:
        raise ValueError(f"{entry} has no digests; lock it anew with `fxkernels lock`")
    variants = {}
    for variant, locked in sorted(entry.variants.items()):
        if not isinstance(locked, LockedFiles):
            raise ValueError(f"{entry} has no digests for the files of {variant}; lock it anew with `fxkernels lock`")
        variants[variant] = {path: digest.hex() for path, digest in sorted(locked.digests.files.items())}
    return {"repository": entry.repo_id, **_state(entry.request), "commit": entry.commit, "variants": variants}


def _state(request: KernelDependency) -> dict[str, Any]:
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
    lock = Lock(fields.where, entries, tuple(_request(requires.object(name), name) for name in requires.values))
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
    return LockedRepository(
        repo_id,
        _hexadecimal(fields, "commit", _COMMIT, "a full commit, 40 hexadecimal digits"),
        _request(fields, repo_id),
        {name: _variant(variants, name) for name in variants.values},
    )


def _request(fields: JsonObject, repo_id: str) -> KernelDependency:
    version = fields.count("version") if fields.has("version") else None
    revision = fields.text("revision") if fields.has("revision") else None
    try:
        return KernelDependency(repo_id, version=version, revision=revision)
    except ValueError as error:
        raise RepositoryError("load_error", f"{fields.where}: key {fields.prefix.rstrip('.')!r} cannot be used: {error}") from None


def _variant(variants: JsonObject, name: str) -> LockedVariant:
    where = f"{variants.where}: key {variants.prefix.rstrip('.')!r}"
    if "/" in check_relative_path(name, where):
        raise RepositoryError("load_error", f"{where} has {name!r}, which is no name of a build variant")
    files = variants.object(name, "an object that has a path and a digest for each file")
    digests: Mapping[str, bytes] = {
        check_relative_path(path, where): bytes.fromhex(_hexadecimal(files, path, _SHA256, "the file's SHA-256 in hexadecimal digits"))
        for path in files.values
    }
    return LockedFiles(Digests("sha256", digests))


def _hexadecimal(fields: JsonObject, key: str, pattern: re.Pattern[str], expected: str) -> str:
    if not pattern.fullmatch(text := fields.text(key, expected)):
        raise fields.refusal(key, expected)
    return text


def _check_keys(fields: JsonObject, known: set[str]) -> None:
    # A key that is not understood could restrict what the others allow.
    for key in fields.values:
        if key not in known:
            raise RepositoryError(
                "load_error", f"{fields.where}: key {fields.prefix + key!r} is not known; known are: {', '.join(sorted(known))}"
            )
