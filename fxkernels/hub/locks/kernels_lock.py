"""``kernels.lock``, the lock of the `kernels` package, in its two forms. It is read and never written.

From 0.17 on it is a list of ``{"dependency": {"repo-id", "version" or "revision"}, "lock": {"commit"}}``: commits without digests. Before,
it was a list of ``{"repo_id", "sha", "variants": {name: {"hash", "hash_type"}}}``, with one hash for all files of a build, see
`LockedHash`. The form for Nix has another ``hash`` beside the commit, of a directory that only Nix makes; it is not checked.
"""

from __future__ import annotations

import re

from ...errors import RepositoryError
from ..request import commit_in, is_repo_id, request_in
from ..strict_json import JsonObject
from .lock import Lock, LockedHash, LockedRepository, LockedVariant, UnknownHash

_HASH = re.compile(r"sha256-([0-9a-f]{64})")
_HASH_TYPE = "git_lfs_concat"


def kernels_lock(content: bytes, where: str) -> Lock:
    """Return the lock that the content of a ``kernels.lock`` is.

    Raises:
        RepositoryError: With code ``load_error``, naming the file and the key that is missing or wrong.
    """
    # As the value of a key, a list is read as strictly as an object.
    fields = JsonObject.parse(b'{"repositories": ' + content + b"}", where)
    if fields.values.keys() != {"repositories"}:
        raise RepositoryError("load_error", f"{where} cannot be read as JSON: something follows the list")
    entries = [_entry(entry) for entry in fields.objects("repositories")]
    return Lock(where, tuple(sorted(entries, key=str)))


def _entry(fields: JsonObject) -> LockedRepository:
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
    hashes = {name: _hash(variants.object(name)) for name in variants.values}
    return LockedRepository(repo_id, commit_in(fields, "sha"), None, hashes)


def _hash(fields: JsonObject) -> LockedVariant:
    text, kind = fields.text("hash"), fields.text("hash_type") if fields.has("hash_type") else _HASH_TYPE
    match = _HASH.fullmatch(text)
    if kind != _HASH_TYPE or match is None:
        return UnknownHash(f"{fields.where} has the hash {text!r} of type {kind!r} for it, which is not known")
    return LockedHash(bytes.fromhex(match[1]))
