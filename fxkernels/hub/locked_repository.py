"""Repositories that are loaded as a lock says, and not at all if it says nothing about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import RepositoryError
from ..kernels.layer import KernelLayer
from ..target import Target
from .builds.kernel_dependency import KernelDependency, is_repo_id
from .layer_repository import LayerRepository
from .loading import load_layer
from .locks.lock import Lock, LockedRepository
from .locks.lock_file import FILE_NAME, read_lock
from .locks.locked_snapshot import LockedSnapshot
from .overrides import VARIABLE, local_override
from .remote.trust import is_allowed, require_trust
from .repository import LocalLayerRepository, check_layer_name, check_when, machine

_BUILTIN = Path(__file__).parent.parent / "builtin"


@dataclass(frozen=True, slots=True, init=False)
class LockedLayerRepository:
    """A layer of a kernel repository on the Hub, at the commit and with the files that a lock file has for it.

    Making one reads nothing. It is compared, hashed and pickled by value.

    Args:
        repo_id: The repository, ``organization/name``. Which version of it, the lock file says.
        layer_name: Name of the class in the repository's ``layers``.
        lockfile: An ``fxkernels.lock``, or a ``kernels.lock`` of the `kernels` package, which has no digests, or one for a whole build.
        trust_remote_code: As for `LayerRepository`: what is locked is not yet trusted.
        when: As for `LayerRepository`: constraints on the calls for which it is used.

    Raises:
        ValueError: If a name makes no sense, or a text in `when` is no constraint.
        TypeError: If `trust_remote_code` is neither a truth value nor a sequence of repository ids, or `when` holds no strings.

    Example:
        >>> repository = LockedLayerRepository("acme/norms", layer_name="RMSNorm", lockfile="fxkernels.lock")
    """

    repo_id: str
    layer_name: str
    lockfile: Path
    trust_remote_code: bool | tuple[str, ...]
    when: tuple[str, ...]

    def __init__(
        self,
        repo_id: str,
        *,
        layer_name: str,
        lockfile: str | Path = FILE_NAME,
        trust_remote_code: bool | Sequence[str] = False,
        when: str | Sequence[str] = (),
    ) -> None:
        if not is_repo_id(repo_id):
            raise ValueError(f"{repo_id!r} is no repository on the Hub; its id has the form organization/name, e.g. 'acme/norms'")
        is_allowed(repo_id, trust_remote_code)  # checks its type
        object.__setattr__(self, "repo_id", repo_id)
        object.__setattr__(self, "layer_name", check_layer_name(layer_name))
        # Absolute at once: the value must not change its meaning when the program changes its directory.
        object.__setattr__(self, "lockfile", Path(lockfile).absolute())
        trusted = trust_remote_code if isinstance(trust_remote_code, bool) else tuple(trust_remote_code)
        object.__setattr__(self, "trust_remote_code", trusted)
        object.__setattr__(self, "when", check_when(when))

    def load(self) -> type[nn.Module]:
        """Return the layer's class for this machine, for its accelerator where there is one.

        Raises:
            RepositoryError: As `load_for`.
        """
        return self.load_for(machine()).cls

    def load_for(self, target: Target) -> KernelLayer:
        """Return the layer from the build that fits `target`, downloaded if it is not in the cache.

        Raises:
            RepositoryError: As `LayerRepository.load_for`. Besides, with code ``untrusted`` if the repository is not in the lock file, with
                code ``digest`` if a file is not the one that was locked, with code ``load_error`` if the lock file cannot be read.
        """
        lock = read_lock(self.lockfile)
        return _load(lock, lock.find_required(self.repo_id), self, target)


@dataclass(frozen=True)
class UnderLock:
    """A repository of a mapping as a lock has it: what ``kernelize(lockfile=...)`` loads in its place.

    Args:
        repository: The repository that stands in the mapping.
        lock: The lock, which was read once, when the model was kernelized.
    """

    repository: Any
    lock: Lock

    def load(self) -> type[nn.Module]:
        """Return the layer's class for this machine."""
        return self.load_for(machine()).cls

    def load_for(self, target: Target) -> KernelLayer:
        """Return the layer from the build that fits `target`, if the lock has it.

        Raises:
            RepositoryError: With code ``untrusted``, if the lock says nothing about this repository; else as that of
                `LockedLayerRepository`.
        """
        repository = self.repository
        if isinstance(repository, LayerRepository):
            wanted = KernelDependency(repository.repo_id, version=repository.version, revision=repository.revision)
            return _load(self.lock, self.lock.find(wanted), repository, target)
        if isinstance(repository, LockedLayerRepository):
            return _load(self.lock, self._agreed(repository), repository, target)
        if isinstance(repository, LocalLayerRepository) and repository.path.resolve().is_relative_to(_BUILTIN.resolve()):
            return repository.load_for(target)  # a part of this library, which the environment pins
        name = getattr(repository, "repo_id", None) or getattr(repository, "path", None) or type(repository).__qualname__
        raise RepositoryError(
            "untrusted",
            f"{name} ({type(repository).__qualname__}) is not in {self.lock.where}: only repositories on the Hub can be locked\n"
            "  Map the layer to an fxkernels.LayerRepository that is locked, or leave lockfile= out.",
        )

    def _agreed(self, repository: LockedLayerRepository) -> LockedRepository:
        """What both locks have: the repository's own, and the one that is in force."""
        own = read_lock(repository.lockfile).find_required(repository.repo_id)
        entry = self.lock.find(KernelDependency(own.repo_id, revision=own.commit))
        if own.variants is None or entry.variants is None:
            return own if entry.variants is None else entry
        if own.variants != entry.variants:
            raise RepositoryError("digest", f"{own} is locked with other files in {repository.lockfile} than in {self.lock.where}")
        return entry


def lock_of(lockfile: object) -> Lock:
    """Return the lock that a user names; one that was read already is returned as it is.

    Raises:
        TypeError: If it is no path.
        RepositoryError: If it cannot be read.
    """
    if isinstance(lockfile, Lock):
        return lockfile
    if not isinstance(lockfile, str | Path):
        raise TypeError(f"lockfile= is the path of a lock file, e.g. 'fxkernels.lock', not {lockfile!r}")
    return read_lock(Path(lockfile))


def _load(lock: Lock, entry: LockedRepository, repository: LayerRepository | LockedLayerRepository, target: Target) -> KernelLayer:
    trusted = repository.trust_remote_code

    def find(wanted: KernelDependency) -> LockedSnapshot:
        return open_locked(lock, lock.find(wanted), trusted)

    return load_layer(open_locked(lock, entry, trusted), repository.layer_name, target, dependencies=find, when=repository.when)


def open_locked(lock: Lock, entry: LockedRepository, trusted: bool | Sequence[str]) -> LockedSnapshot:
    """Return a repository as it is locked, if its code may run.

    Raises:
        RepositoryError: With code ``untrusted``, if it may not, or if ``FXKERNELS_LOCAL`` puts something else in its place.
    """
    directory = local_override(entry.repo_id)
    if directory is not None:
        raise RepositoryError(
            "untrusted",
            f"{VARIABLE} puts {directory} in the place of {entry.repo_id}, which {lock.where} locks to {entry.commit[:7]}\n"
            f"  Take it out of {VARIABLE}, or load without the lock file: nothing but what is locked may run under a lock.",
        )
    require_trust(entry.repo_id, entry.commit, trusted)
    return LockedSnapshot(entry, lock.where)
