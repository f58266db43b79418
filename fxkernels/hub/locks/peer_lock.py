"""``kernels.lock``, the lock of the `kernels` package, in the two forms that there are; it is read and never written.

From 0.17 on it is a list of ``{"dependency": {"repo-id", "version" or "revision"}, "lock": {"commit"}}``: commits, and no digests. Before,
it was a list of ``{"repo_id", "sha", "variants": {name: {"hash", "hash_type"}}}``, with one hash for all files of a build (see
`LockedHash`).
The form for Nix has a ``hash`` beside the commit, of a directory that Nix makes and that nobody else can check.
"""

from __future__ import annotations

import re
from typing import Any

from ...errors import RepositoryError
from ..builds.json_fields import JsonObject
from ..builds.kernel_dependency import KernelDependency, is_repo_id
from .lock import Lock, LockedHash, LockedRepository, LockedVariant, Uncheckable

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(r"sha256-([0-9a-f]{64})")
_HASH_TYPE = "git_lfs_concat"


def peer_lock(content: dict[str, Any], where: str) -> Lock:
    """Return the lock that the list under the key ``repositories`` is.

    Raises:
        RepositoryError: With code ``load_error``, naming the file and the key that is missing or wrong.
    """
    fields = JsonObject(where, content)
    entries = [_locked(entry) for entry in fields.objects("repositories")]
    return Lock(where, tuple(sorted(entries, key=str)))


def _locked(fields: JsonObject) -> LockedRepository:
    if fields.has("dependency"):
        return _commit_only(fields)
    if fields.has("repo_id"):
        return _with_hashes(fields)
    name = fields.prefix.rstrip(".")
    raise RepositoryError(
        "load_error", f"{fields.where}: key {name!r} is no entry of a kernels.lock: it has neither 'dependency' nor 'repo_id'"
    )


def _commit_only(fields: JsonObject) -> LockedRepository:
    asked, lock = fields.object("dependency"), fields.object("lock")
    repo_id = asked.text("repo-id")
    version = asked.count("version") if asked.has("version") else None
    revision = asked.text("revision") if asked.has("revision") else None
    try:
        request = KernelDependency(repo_id, version=version, revision=revision)
    except ValueError as error:
        raise RepositoryError("load_error", f"{fields.where}: key {asked.prefix.rstrip('.')!r} cannot be used: {error}") from None
    return LockedRepository(repo_id, _commit(lock, "commit"), request, None)


def _with_hashes(fields: JsonObject) -> LockedRepository:
    repo_id = fields.text("repo_id")
    if not is_repo_id(repo_id):
        raise fields.refusal("repo_id", 'a repository such as "acme/norms"')
    variants = fields.object("variants", "an object with a hash for each build")
    hashes = {name: _hash(variants.object(name)) for name in variants.values}
    return LockedRepository(repo_id, _commit(fields, "sha"), None, hashes)


def _hash(fields: JsonObject) -> LockedVariant:
    text, kind = fields.text("hash"), fields.text("hash_type") if fields.has("hash_type") else _HASH_TYPE
    match = _HASH.fullmatch(text)
    if kind != _HASH_TYPE or match is None:
        return Uncheckable(f"{fields.where} has the hash {text!r} of type {kind!r} for it, which is not known")
    return LockedHash(bytes.fromhex(match[1]))


def _commit(fields: JsonObject, key: str) -> str:
    expected = "a full commit, 40 hexadecimal digits"
    if not _COMMIT.fullmatch(commit := fields.text(key, expected)):
        raise fields.refusal(key, expected)
    return commit
