"""Lock files: ``fxkernels.lock`` is made, written and read, and ``kernels.lock``, the lock of the `kernels` package, is read.

A lock has the commits of the kernels that a project requires and of their dependencies, and the digests of all files. Nothing is run to
make one, and little is downloaded: the Hub lists the SHA-256 of files in LFS, which are the large ones. It lists files in git by git's own
hash; these are downloaded, compared with that hash and digested here.

An ``fxkernels.lock`` has one line per file of a build, in an order that depends on the content only.

A ``kernels.lock`` has two forms. From 0.17 on it is a list of ``{"dependency": {"repo-id", "version" or "revision"}, "lock": {"commit"}}``:
commits without digests. Before, it was a list of ``{"repo_id", "sha", "variants": {name: {"hash", "hash_type"}}}``, with one hash for all
files of a build, see `LockedHash`. The form for Nix has another ``hash`` beside the commit, of a directory that only Nix makes; it is not
checked.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cache_directory import write_atomically
from ..errors import RepositoryError
from .builds.digests import Digests, sha256_of
from .builds.paths import check_relative_path
from .loading import open_commit
from .lock import Lock, LockedFiles, LockedHash, LockedRepository, LockedVariant, UnknownHash
from .remote.hub_snapshot import HubSnapshot
from .request import RepositoryRequest, commit_in, is_repo_id, request_in
from .strict_json import JsonObject, read_limited

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


TABLE = "tool.fxkernels.kernels"
_EXAMPLE = '"acme/norms" = { version = 1 }'


def required_kernels(pyproject: Path) -> tuple[RepositoryRequest, ...]:
    """Return the kernels that a project lists under ``[tool.fxkernels.kernels]``, by name.

    Each is ``"org/name" = { version = 1 }`` or ``{ revision = "..." }``, or in short the version's number or the revision's name.

    Raises:
        ValueError: Naming file and key, if there is no such table or an entry is not valid.
        OSError: If the file cannot be read.
    """
    try:
        content: Any = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{pyproject} cannot be read as TOML: {error}") from error
    for key in TABLE.split("."):
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"{pyproject} has no table [{TABLE}]; write one, with lines such as {_EXAMPLE}")
        content = content[key]
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{pyproject}: [{TABLE}] names no kernels; they are lines such as {_EXAMPLE}")
    return tuple(_request(pyproject, repo_id, value) for repo_id, value in sorted(content.items()))


def _request(pyproject: Path, repo_id: str, value: Any) -> RepositoryRequest:
    where = f'{pyproject}: "{repo_id}" in [{TABLE}]'
    state = value
    if isinstance(value, int) and not isinstance(value, bool):
        state = {"version": value}
    elif isinstance(value, str):
        state = {"revision": value}
    if not isinstance(state, dict):
        raise ValueError(f"{where} is {value!r}; write a line such as {_EXAMPLE}")
    unknown = sorted(state.keys() - {"version", "revision"})
    if unknown:
        raise ValueError(f"{where} has the key {unknown[0]!r}; it may have 'version' or 'revision'")
    version, revision = state.get("version"), state.get("revision")
    if version is not None and (not isinstance(version, int) or isinstance(version, bool) or version < 0):
        raise ValueError(f"{where} has the version {version!r}; versions are the numbers 0, 1, 2 ... (see `fxkernels versions`)")
    if revision is not None and not isinstance(revision, str):
        raise ValueError(f"{where} has the revision {revision!r}; it must be the name of a branch, tag or commit")
    try:
        return RepositoryRequest(repo_id, version=version, revision=revision)
    except ValueError as error:
        raise ValueError(f"{where} cannot be used: {error}") from None


def lock_kernels(
    requires: Sequence[RepositoryRequest], where: str, trust_remote_code: bool | Sequence[str] = False
) -> tuple[Lock, list[str]]:
    """Return the lock of the required repositories and their dependencies, and a note on each build that was left out.

    Args:
        requires: The requests of the project.
        where: The lock file, as errors name it.
        trust_remote_code: See `fxkernels.hub.remote.trust`. Only trusted repositories are locked.

    Raises:
        RepositoryError: If a repository or a dependency cannot be fetched or is not trusted.
    """
    locked: dict[RepositoryRequest, LockedRepository] = {}
    notes: list[str] = []
    waiting = list(requires)
    while waiting:
        request = waiting.pop()
        if request not in locked:
            locked[request], dependencies, left_out = _locked(request, trust_remote_code)
            waiting += dependencies
            notes += left_out
    return Lock(where, tuple(sorted(locked.values(), key=str)), tuple(requires)), notes


def _locked(
    request: RepositoryRequest, trust_remote_code: bool | Sequence[str]
) -> tuple[LockedRepository, list[RepositoryRequest], list[str]]:
    """Return the entry of one repository, its dependencies, and notes on builds that were left out.

    A circle of dependencies is found by the import: builds differ in their dependencies.
    """
    snapshot = open_commit(request, trust_remote_code)
    variants: dict[str, LockedVariant] = {}
    dependencies: list[RepositoryRequest] = []
    left_out: list[str] = []
    for variant in snapshot.variants():
        files = LockedFiles(_digests(snapshot, variant))  # downloads metadata.json too, so only its content can be wrong after that
        try:
            metadata = snapshot.metadata(variant)
        except RepositoryError as error:
            left_out.append(f"build {variant} of {request} cannot be loaded and is left out: {error}")
            continue
        variants[variant] = files
        dependencies += metadata.kernel_depends
    if not variants:
        raise RepositoryError("load_error", "\n  ".join([f"{request} has no build that can be loaded", *left_out]))
    return LockedRepository(request.repo_id, snapshot.commit, request, variants), dependencies, left_out


def _digests(snapshot: HubSnapshot, variant: str) -> Digests:
    listed = snapshot.files(variant)
    fetched = snapshot.fetch(variant, [name for name, file in listed.items() if file.sha256 is None])
    return Digests("sha256", {name: bytes.fromhex(file.sha256 or sha256_of(fetched[name])) for name, file in listed.items()})
