"""How a lock comes about: the commit of each kernel that a project names, of all their dependencies, and the digests of all files.

Nothing is run, and little is downloaded: the Hub lists the SHA-256 of files in LFS, which are the large ones. Files in git it lists by
git's own hash; these are downloaded, compared with that hash and digested here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import RepositoryError
from ..builds.kernel_dependency import KernelDependency
from ..builds.metadata import Digests
from ..integrity.digests import sha256_of
from ..remote.download import HubSnapshot
from ..remote.resolve import resolve
from ..remote.trust import require_trust
from .lock import Lock, LockedFiles, LockedRepository, LockedVariant

TABLE = "tool.fxkernels.kernels"
_EXAMPLE = '"acme/norms" = { version = 1 }'


def required_kernels(pyproject: Path) -> tuple[KernelDependency, ...]:
    """Return the kernels that a project names under ``[tool.fxkernels.kernels]``, by name.

    Each is ``"org/name" = { version = 1 }`` or ``{ revision = "..." }``, or in short the version's number or the revision's name.

    Raises:
        ValueError: Naming file and key, if there is no such table or something in it makes no sense.
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


def _request(pyproject: Path, repo_id: str, value: Any) -> KernelDependency:
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
        return KernelDependency(repo_id, version=version, revision=revision)
    except ValueError as error:
        raise ValueError(f"{where} cannot be used: {error}") from None


@dataclass
class Locking:
    """Locks repositories, each once, with everything that they depend on.

    Args:
        trust_remote_code: See `fxkernels.hub.remote.trust`. What nobody trusts is not locked.
        notes: What the user should know of the lock that was made: builds that were left out.
    """

    trust_remote_code: bool | Sequence[str] = False
    notes: list[str] = field(default_factory=list)
    _locked: dict[KernelDependency, LockedRepository] = field(default_factory=dict)

    def lock(self, requires: Sequence[KernelDependency], where: str) -> Lock:
        """Return the lock of what is required; `where` is the file's name in errors.

        Raises:
            RepositoryError: If a repository, or one that it depends on, cannot be had or is not trusted.
        """
        open_requests = list(requires)
        while open_requests:
            request = open_requests.pop()
            if request not in self._locked:
                open_requests += self._add(request)
        return Lock(where, tuple(sorted(self._locked.values(), key=str)), tuple(requires))

    def _add(self, request: KernelDependency) -> list[KernelDependency]:
        """Lock one repository and return what its builds depend on. A circle is for the import to find: builds differ in what they need."""
        commit = resolve(request.repo_id, revision=request.revision, version=request.version)
        require_trust(request.repo_id, commit, self.trust_remote_code)
        snapshot = HubSnapshot(request.repo_id, commit)
        variants: dict[str, LockedVariant] = {}
        dependencies: list[KernelDependency] = []
        left_out: list[str] = []
        for variant in snapshot.variants():
            files = LockedFiles(_digests(snapshot, variant))  # downloads the metadata too; what fails after that is the metadata's fault
            try:
                metadata = snapshot.metadata(variant)
            except RepositoryError as error:
                left_out.append(f"build {variant} of {request} cannot be loaded and is left out: {error}")
                continue
            variants[variant] = files
            dependencies += metadata.kernel_depends
        if not variants:
            raise RepositoryError("load_error", "\n  ".join([f"{request} has no build that can be loaded", *left_out]))
        self.notes += left_out
        self._locked[request] = LockedRepository(request.repo_id, commit, request, variants)
        return dependencies


def _digests(snapshot: HubSnapshot, variant: str) -> Digests:
    prefix = f"build/{variant}/"
    listed = snapshot.files(variant)
    here = snapshot.fetch({path: file for path, file in listed.items() if file.sha256 is None})
    digests = {path.removeprefix(prefix): bytes.fromhex(file.sha256 or sha256_of(here[path])) for path, file in listed.items()}
    return Digests("sha256", digests)
