"""Makes a lock: the commits of the kernels that a project requires and of their dependencies, and the digests of all files.

Nothing is run, and little is downloaded. The Hub lists the SHA-256 of files in LFS, which are the large ones. It lists files in git by
git's own hash; these are downloaded, compared with that hash and digested here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import RepositoryError
from ..builds.digests import Digests, sha256_of
from ..loading import open_commit
from ..remote.hub_snapshot import HubSnapshot
from ..request import RepositoryRequest
from .lock import Lock, LockedFiles, LockedRepository, LockedVariant

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
