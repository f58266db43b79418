"""Locks: which commits of which repositories may be loaded, and the digests of their files.

A lock has for each repository the request that was locked (``acme/norms@v1``), its commit, and the digest of every file of every build.
A repository, build or file that is not in the lock is refused. `LockedSnapshot` is a repository as a lock has it. `lock_file` makes,
writes and reads lock files.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..errors import RepositoryError
from .builds.digests import Digests, git_blob_sha1, sha256_of, verify_files
from .builds.metadata import Metadata
from .builds.paths import BLOBS, variant_files
from .remote.cache import CachedRepository
from .remote.hub_snapshot import HubSnapshot
from .remote.trust import require_trust
from .request import RepositoryRequest
from .snapshot import LOCAL_VARIABLE, local_override

_LFS_NAME = 64
"""Digits in the cache's name of an LFS file, which is its SHA-256; that of a git file is its SHA-1."""


class LockedVariant(Protocol):
    """A lock's entry for a build."""

    def verify(self, files: Mapping[str, Path], where: str) -> None:
        """Check the build's files.

        Args:
            files: The files, as `fxkernels.hub.builds.paths.variant_files` returns them.
            where: How to name the build in errors.

        Raises:
            RepositoryError: With code ``digest``, if they are not the locked ones, or that cannot be checked.
        """


@dataclass(frozen=True, slots=True)
class LockedFiles:
    """The digest of every file of a build.

    Args:
        digests: By path in the variant's directory. Unlike those in a build's metadata they include ``metadata.json``.
    """

    digests: Digests

    def verify(self, files: Mapping[str, Path], where: str) -> None:
        verify_files(files, self.digests, where)
        # Unlike those in metadata, these digests include metadata.json and its signature.
        more = sorted(files.keys() - self.digests.files.keys())
        if more:
            raise RepositoryError("digest", f"{where} has files that were not locked: {', '.join(more)}")


@dataclass(frozen=True, slots=True)
class LockedHash:
    """One hash over a build, as the `kernels` package before 0.17 wrote it into its lock (``git_lfs_concat``).

    It is the SHA-256 over the name and the hash of each file, in the order of the names. The hash is the SHA-256 of an LFS file, and the
    SHA-1 of the git blob of any other. Only the cache of `huggingface_hub` knows which of the two a file is.

    Args:
        sha256: The hash.
    """

    sha256: bytes

    def verify(self, files: Mapping[str, Path], where: str) -> None:
        outside = next((name for name, path in files.items() if path.parent.name != BLOBS), None)
        if outside is not None:
            raise RepositoryError(
                "digest",
                f"{where} cannot be checked: the lock has one hash for the whole build, and {outside} is not a file of the Hub's cache",
            )
        total = hashlib.sha256()
        for name, path in sorted((name.encode(), path) for name, path in files.items()):
            total.update(name)
            total.update(bytes.fromhex(sha256_of(path) if len(path.name) == _LFS_NAME else git_blob_sha1(path)))
        if total.digest() != self.sha256:
            raise RepositoryError(
                "digest",
                f"{where} is not the build that was locked: its files together hash to {total.hexdigest()[:12]}..., not "
                f"{self.sha256.hex()[:12]}...\n  The lock has one hash for all of them, so which file it is cannot be told.",
            )


@dataclass(frozen=True, slots=True)
class UnknownHash:
    """A hash of an unknown kind. It cannot be checked, so the build is refused.

    Args:
        reason: Why, as a phrase.
    """

    reason: str

    def verify(self, files: Mapping[str, Path], where: str) -> None:
        raise RepositoryError("digest", f"{where} cannot be checked: {self.reason}")


@dataclass(frozen=True, slots=True)
class LockedRepository:
    """A lock's entry for a repository.

    Args:
        repo_id: Organization and name.
        commit: The full commit.
        request: The request that was locked; None if the lock does not say.
        variants: The entry of each build. None if the lock has the commit only, as those of the `kernels` package from 0.17 on.
    """

    repo_id: str
    commit: str
    request: RepositoryRequest | None
    variants: Mapping[str, LockedVariant] | None = field(hash=False)

    def __str__(self) -> str:
        return str(self.request or f"{self.repo_id}@{self.commit[:7]}")

    def answers(self, wanted: RepositoryRequest) -> bool:
        """Return whether a request is the one that was locked, or asks for the locked commit."""
        return wanted.repo_id == self.repo_id and (wanted == self.request or wanted.revision == self.commit)


@dataclass(frozen=True, slots=True)
class Lock:
    """The repositories that may be loaded.

    Args:
        where: The file, as errors name it.
        repositories: The locked repositories and their dependencies, in the order of their names.
        requires: The requests of the project.
    """

    where: str
    repositories: tuple[LockedRepository, ...]
    requires: tuple[RepositoryRequest, ...] = ()

    def find(self, wanted: RepositoryRequest) -> LockedRepository:
        """Return the entry for a request.

        Raises:
            RepositoryError: With code ``untrusted``, if there is none.
        """
        found = next((entry for entry in self.repositories if entry.answers(wanted)), None)
        if found is not None:
            return found
        others = [str(entry) for entry in self.repositories if entry.repo_id == wanted.repo_id]
        raise self._not_locked(str(wanted), f"it has {', '.join(others)} instead" if others else None)

    def find_required(self, repo_id: str) -> LockedRepository:
        """Return the entry for a repository of which only the name is given: the one that the project requires, or else the only one.

        Raises:
            RepositoryError: With code ``untrusted``, if it is not locked, or only as several dependencies.
        """
        required = next((request for request in self.requires if request.repo_id == repo_id), None)
        if required is not None:
            return self.find(required)
        entries = [entry for entry in self.repositories if entry.repo_id == repo_id]
        if len(entries) == 1:
            return entries[0]
        raise self._not_locked(repo_id, f"it has {', '.join(map(str, entries))} as dependencies of others" if entries else None)

    def _not_locked(self, wanted: str, instead: str | None) -> RepositoryError:
        has = instead or f"it has: {', '.join(map(str, self.repositories)) or 'nothing'}"
        return RepositoryError(
            "untrusted",
            f"{wanted} is not in {self.where}; {has}\n  Put it under [tool.fxkernels.kernels] in pyproject.toml and run `fxkernels lock`.",
        )


_log = logging.getLogger("fxkernels")


@dataclass(frozen=True)
class LockedSnapshot:
    """A repository on the Hub at the commit and with the builds that a lock has.

    Args:
        entry: The lock's entry for it.
        lock_file: The lock's file, for errors.
    """

    entry: LockedRepository
    lock_file: str

    @property
    def name(self) -> str:
        return self.entry.repo_id

    @property
    def revision(self) -> str:
        return self.entry.commit

    @property
    def where(self) -> str:
        return f"{self._hub.where} (locked in {self.lock_file})"

    def variants(self) -> tuple[str, ...]:
        return tuple(sorted(self.entry.variants)) if self.entry.variants is not None else self._hub.variants()

    def metadata(self, variant: str) -> Metadata:
        self._locked(variant)
        return self._hub.metadata(variant)

    def directory(self, variant: str) -> Path:
        self._locked(variant)
        return self._hub.directory(variant)

    def verify(self, variant: str) -> Digests | None:
        locked = self._locked(variant)
        known = self._hub.verify(variant)
        if locked is None:
            _warn_of_no_digests(self.lock_file, str(self.entry))
            return known
        locked.verify(self.files(variant), f"{self.where} ({variant})")
        return locked.digests if isinstance(locked, LockedFiles) else known

    def files(self, variant: str) -> dict[str, Path]:
        """Return the files of a build, by path in the variant's directory."""
        return variant_files(self._hub.directory(variant), CachedRepository.of(self.entry.repo_id).folder)

    @functools.cached_property
    def _hub(self) -> HubSnapshot:
        return HubSnapshot(self.entry.repo_id, self.entry.commit)

    def _locked(self, variant: str) -> LockedVariant | None:
        if self.entry.variants is None:
            return None
        if variant not in self.entry.variants:
            raise RepositoryError(
                "digest", f"build {variant} of {self.entry} is not in {self.lock_file}; run `fxkernels lock` if it should be"
            )
        return self.entry.variants[variant]


def open_locked(lock: Lock, entry: LockedRepository, trust_remote_code: bool | Sequence[str]) -> LockedSnapshot:
    """Return a repository as it is locked, if its code may run.

    Raises:
        RepositoryError: With code ``untrusted``, if it may not, or if ``FXKERNELS_LOCAL`` replaces the repository.
    """
    directory = local_override(entry.repo_id)
    if directory is not None:
        raise RepositoryError(
            "untrusted",
            f"{LOCAL_VARIABLE} replaces {entry.repo_id} with {directory}, and {lock.where} locks it to {entry.commit[:7]}\n"
            f"  Take it out of {LOCAL_VARIABLE}, or load without the lock file: only locked repositories may run under a lock.",
        )
    require_trust(entry.repo_id, entry.commit, trust_remote_code)
    return LockedSnapshot(entry, lock.where)


@functools.cache
def _warn_of_no_digests(lock_file: str, name: str) -> None:
    _log.warning(
        "%s has the commit of %s and no digests: its files are checked against the Hub's list, not against the lock", lock_file, name
    )
