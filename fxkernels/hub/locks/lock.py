"""Locks: which commits of which repositories may be loaded, and what the files of their builds must hash to.

A lock says of each repository what was asked for when it was written (``acme/norms@v1``), which commit that was, and of each build the
digest of every file. Whatever a lock does not say is refused, not guessed. How locks are written down is the business of `lock_file`, and
how they come about that of `locking`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ...errors import RepositoryError
from ..builds.kernel_dependency import KernelDependency
from ..builds.metadata import Digests
from ..integrity.digests import git_blob_sha1, sha256_of, verify_files
from ..integrity.paths import BLOBS

_LFS_NAME = 64
"""Digits in the cache's name of an LFS file, which is its SHA-256; that of a git file is its SHA-1."""


class LockedVariant(Protocol):
    """What a lock knows of a build."""

    def verify(self, files: Mapping[str, Path], where: str) -> None:
        """Check the build's files.

        Args:
            files: The files, as `fxkernels.hub.integrity.paths.variant_files` returns them.
            where: How to name the build in errors.

        Raises:
            RepositoryError: With code ``digest``, if they are not what was locked or that cannot be found out.
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
        # What the digests in metadata never list (metadata.json, its signature) is listed here.
        more = sorted(files.keys() - self.digests.files.keys())
        if more:
            raise RepositoryError("digest", f"{where} has files that were not locked: {', '.join(more)}")


@dataclass(frozen=True, slots=True)
class LockedHash:
    """One hash over a build, as the `kernels` package before 0.17 wrote it into its lock (``git_lfs_concat``).

    It is the SHA-256 of, file by file in the order of the names: the name, and the bytes of what git calls the content, which is the
    SHA-256 of an LFS file and the SHA-1 of any other blob. Which of the two a file is, only the cache of `huggingface_hub` knows.

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
class Uncheckable:
    """Something in a lock that nobody here can check; so the build is refused.

    Args:
        reason: Why, as a phrase.
    """

    reason: str

    def verify(self, files: Mapping[str, Path], where: str) -> None:
        raise RepositoryError("digest", f"{where} cannot be checked: {self.reason}")


@dataclass(frozen=True, slots=True)
class LockedRepository:
    """What a lock says about a repository.

    Args:
        repo_id: Organization and name.
        commit: The full commit.
        request: What was asked for when it was locked; None if the lock does not say.
        variants: What is known of each build. None if the lock has the commit only, as those of the `kernels` package from 0.17 on.
    """

    repo_id: str
    commit: str
    request: KernelDependency | None
    variants: Mapping[str, LockedVariant] | None = field(hash=False)

    def __str__(self) -> str:
        return str(self.request or f"{self.repo_id}@{self.commit[:7]}")

    def answers(self, wanted: KernelDependency) -> bool:
        """Whether this is the repository in the state that is wanted: what was locked under that name, or its commit."""
        return wanted.repo_id == self.repo_id and (wanted == self.request or wanted.revision == self.commit)


@dataclass(frozen=True, slots=True)
class Lock:
    """What may be loaded.

    Args:
        where: The file, as errors name it.
        repositories: What is locked, dependencies included, in the order of their names.
        requires: What the project asked for.
    """

    where: str
    repositories: tuple[LockedRepository, ...]
    requires: tuple[KernelDependency, ...] = ()

    def find(self, wanted: KernelDependency) -> LockedRepository:
        """Return what is locked for a repository in a state.

        Raises:
            RepositoryError: With code ``untrusted``, if nothing is.
        """
        found = next((entry for entry in self.repositories if entry.answers(wanted)), None)
        if found is not None:
            return found
        others = [str(entry) for entry in self.repositories if entry.repo_id == wanted.repo_id]
        raise self._not_locked(str(wanted), f"it has {', '.join(others)} instead" if others else None)

    def find_required(self, repo_id: str) -> LockedRepository:
        """Return what is locked for a repository of which only the name is given: the one that the project asked for.

        Raises:
            RepositoryError: With code ``untrusted``, if it is not locked, or several states of it are and the project asked for none.
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
