"""Repositories of a mapping under a restriction: loaded from the cache only, or as a lock has them only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RepositoryError
from ..kernels.layer import KernelLayer, load_kernel_layer
from ..target import Target
from .layer_repository import LayerRepository, LocalLayerRepository, LockedLayerRepository, load_locked
from .locks.lock import Lock, LockedRepository
from .locks.lock_file import read_lock
from .remote.client import no_requests
from .request import RepositoryRequest

_BUILTIN = Path(__file__).parent.parent / "builtin"


@dataclass(frozen=True)
class CacheOnlyRepository:
    """A repository of a mapping that is loaded without a request, or not at all: `explain` fetches nothing.

    Args:
        repository: The repository in the mapping.
    """

    repository: Any

    def load_for(self, target: Target) -> KernelLayer:
        """Return the layer from the build that fits `target`.

        Raises:
            RepositoryError: As the repository, with code ``offline`` where a file is not in the cache.
        """
        with no_requests():
            return load_kernel_layer(self.repository, target)


@dataclass(frozen=True)
class LockOnlyRepository:
    """A repository of a mapping that is loaded as a lock has it, or not at all: the ``lockfile=`` of `kernelize` and `hubkernels`.

    Args:
        repository: The repository in the mapping.
        lock: The lock. It was read once, when the model was kernelized.
    """

    repository: Any
    lock: Lock

    def load_for(self, target: Target) -> KernelLayer:
        """Return the layer from the build that fits `target`, if the lock has it.

        Raises:
            RepositoryError: With code ``untrusted``, if the lock does not have this repository; else as that of `LockedLayerRepository`.
        """
        repository = self.repository
        if isinstance(repository, LayerRepository):
            return load_locked(repository, self.lock, self.lock.find(repository.request), target)
        if isinstance(repository, LockedLayerRepository):
            return load_locked(repository, self.lock, self._entry_of_both(repository), target)
        if isinstance(repository, LocalLayerRepository) and repository.path.resolve().is_relative_to(_BUILTIN.resolve()):
            return repository.load_for(target)  # a part of this library, which the environment pins
        name = getattr(repository, "repo_id", None) or getattr(repository, "path", None) or type(repository).__qualname__
        raise RepositoryError(
            "untrusted",
            f"{name} ({type(repository).__qualname__}) is not in {self.lock.where}: only repositories on the Hub can be locked\n"
            "  Map the layer to an fxkernels.LayerRepository that is locked, or leave lockfile= out.",
        )

    def _entry_of_both(self, repository: LockedLayerRepository) -> LockedRepository:
        """Return the entry on which the repository's own lock and this one agree."""
        own = read_lock(repository.lockfile).find_required(repository.repo_id)
        entry = self.lock.find(RepositoryRequest(own.repo_id, revision=own.commit))
        if own.variants is None or entry.variants is None:
            return own if entry.variants is None else entry
        if own.variants != entry.variants:
            raise RepositoryError("digest", f"{own} is locked with other files in {repository.lockfile} than in {self.lock.where}")
        return entry


def lock_of(lockfile: object) -> Lock:
    """Return the lock that a user's ``lockfile=`` names; a lock is returned as it is.

    Raises:
        TypeError: If it is no path.
        RepositoryError: If it cannot be read.
    """
    if isinstance(lockfile, Lock):
        return lockfile
    if not isinstance(lockfile, str | Path):
        raise TypeError(f"lockfile= is the path of a lock file, e.g. 'fxkernels.lock', not {lockfile!r}")
    return read_lock(Path(lockfile))
