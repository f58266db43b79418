"""The values of a mapping: a layer in a repository on the Hub, in a directory, or in a repository that is locked.

`CacheOnlyRepository` and `LockOnlyRepository` are the same values, restricted to the cache or to what a lock has.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..constraints import ConstraintError, parse
from ..errors import RepositoryError
from ..kernels.layer import KernelLayer, load_kernel_layer
from ..target import Target
from .loading import load_layer, open_repository
from .lock import Lock, LockedRepository, LockedSnapshot, open_locked
from .lock_file import LOCK_FILE, read_lock
from .remote.client import no_requests
from .remote.trust import is_allowed
from .request import RepositoryRequest, check_repo_id
from .snapshot import LocalSnapshot


class _LayerRepository(ABC):
    __slots__ = ()

    def load(self) -> type[nn.Module]:
        """Return the layer's class for this machine, for its accelerator where there is one.

        Raises:
            RepositoryError: As `load_for`.
        """
        return self.load_for(machine()).cls

    @abstractmethod
    def load_for(self, target: Target) -> KernelLayer:
        """Return the layer from the build that fits `target`."""


@dataclass(frozen=True, slots=True, init=False)
class LocalLayerRepository(_LayerRepository):
    """A layer of a kernel repository in a directory of this machine, in Hub layout.

    Making one reads nothing: a mapping is written before it is known which of its repositories are needed. It is compared, hashed and
    pickled by value.

    Args:
        path: The directory that has ``build/`` in it.
        layer_name: Name of the class in the repository's ``layers``.
        when: Constraints on the calls for which it is used, in addition to those that the repository declares: one text or several.

    Raises:
        ValueError: If `layer_name` is no name of a class, or a text in `when` is no constraint; the error shows where and suggests one.
        TypeError: If `when` is neither a string nor a sequence of strings.

    Example:
        >>> mapping = {"RMSNorm": {"cpu": LocalLayerRepository("kernels/norms", layer_name="RMSNorm")}}
    """

    path: Path
    layer_name: str
    when: tuple[str, ...]

    def __init__(self, path: str | Path, *, layer_name: str, when: str | Sequence[str] = ()) -> None:
        # Absolute at once: the value must not change its meaning when the program changes its directory.
        _set(self, path=Path(path).absolute(), layer_name=_checked_name(layer_name), when=_checked_constraints(when))

    def load_for(self, target: Target) -> KernelLayer:
        """Return the layer from the build that fits `target`.

        Raises:
            RepositoryError: With code ``no_variant`` if no build fits, naming the reason for each; with code ``load_error`` if the
                repository is not in Hub layout, its import fails or it does not have the layer; with code ``digest`` if a file is not the
                one that the metadata lists.
        """
        # Its dependencies come from the Hub, from trusted publishers only.
        dependencies = functools.partial(open_repository, trust_remote_code=False)
        return load_layer(LocalSnapshot(self.path), self.layer_name, target, dependencies=dependencies, when=self.when)


@dataclass(frozen=True, slots=True, init=False)
class LayerRepository(_LayerRepository):
    """A layer of a kernel repository on the Hub.

    Making one sends no request: a mapping is written before it is known which of its repositories are needed. It is compared, hashed and
    pickled by value. ``HF_HOME``, ``HF_ENDPOINT``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean what they mean for huggingface_hub.

    Args:
        repo_id: The repository, ``organization/name``.
        layer_name: Name of the class in the repository's ``layers``.
        revision: A commit, tag or branch. A full commit that is in the cache is loaded without a request. Either this or `version`.
        version: A version of the kernel's interface: the newest commit of the branch ``v<version>``, for which the Hub is asked once per
            process. If it cannot be reached, the commit that it named last time is used, with a warning.
        trust_remote_code: Whose code may run. By default that of publishers that the Hub calls trusted. True allows this repository and its
            dependencies; a sequence of repository ids allows those.
        when: Constraints on the calls for which it is used, in addition to those that the repository declares: one text or several.

    Raises:
        ValueError: If not exactly one of `revision` and `version` is given, a name is not valid, or a text in `when` is no constraint; the
            error shows where and suggests one.
        TypeError: If `trust_remote_code` is neither a bool nor a sequence of repository ids, or `when` holds no strings.

    Example:
        >>> norm = LayerRepository("acme/norms", layer_name="RMSNorm", version=1, when="dim(hidden_states, -1) % 8 == 0")
    """

    repo_id: str
    layer_name: str
    revision: str | None
    version: int | None
    trust_remote_code: bool | tuple[str, ...]
    when: tuple[str, ...]

    def __init__(
        self,
        repo_id: str,
        *,
        layer_name: str,
        revision: str | None = None,
        version: int | None = None,
        trust_remote_code: bool | Sequence[str] = False,
        when: str | Sequence[str] = (),
    ) -> None:
        RepositoryRequest(repo_id, version=version, revision=revision)  # checks the three
        trusted = _checked_trust(repo_id, trust_remote_code)
        _set(self, repo_id=repo_id, layer_name=_checked_name(layer_name), revision=revision, version=version)
        _set(self, trust_remote_code=trusted, when=_checked_constraints(when))

    @property
    def request(self) -> RepositoryRequest:
        """The repository in the requested state."""
        return RepositoryRequest(self.repo_id, version=self.version, revision=self.revision)

    def load_for(self, target: Target) -> KernelLayer:
        """Return the layer from the build that fits `target`, downloaded if it is not in the cache.

        Raises:
            RepositoryError: With code ``untrusted``, ``no_variant``, ``offline``, ``digest`` or ``load_error``; the message says what was
                requested, why it cannot be loaded and what to do.
        """
        dependencies = functools.partial(open_repository, trust_remote_code=self.trust_remote_code)
        return load_layer(dependencies(self.request), self.layer_name, target, dependencies=dependencies, when=self.when)


@dataclass(frozen=True, slots=True, init=False)
class LockedLayerRepository(_LayerRepository):
    """A layer of a kernel repository on the Hub, at the commit and with the files that a lock file has for it.

    Making one reads nothing. It is compared, hashed and pickled by value.

    Args:
        repo_id: The repository, ``organization/name``. The lock file has its commit.
        layer_name: Name of the class in the repository's ``layers``.
        lockfile: An ``fxkernels.lock``, or a ``kernels.lock`` of the `kernels` package, which has no digests, or one for a whole build.
        trust_remote_code: As for `LayerRepository`: a locked repository still needs trust.
        when: As for `LayerRepository`: constraints on the calls for which it is used.

    Raises:
        ValueError: If a name is not valid, or a text in `when` is no constraint.
        TypeError: If `trust_remote_code` is neither a bool nor a sequence of repository ids, or `when` holds no strings.

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
        lockfile: str | Path = LOCK_FILE,
        trust_remote_code: bool | Sequence[str] = False,
        when: str | Sequence[str] = (),
    ) -> None:
        check_repo_id(repo_id)
        trusted = _checked_trust(repo_id, trust_remote_code)
        _set(self, repo_id=repo_id, layer_name=_checked_name(layer_name), lockfile=Path(lockfile).absolute())
        _set(self, trust_remote_code=trusted, when=_checked_constraints(when))

    def load_for(self, target: Target) -> KernelLayer:
        """Return the layer from the build that fits `target`, downloaded if it is not in the cache.

        Raises:
            RepositoryError: As `LayerRepository.load_for`. Also with code ``untrusted`` if the repository is not in the lock file, with
                code ``digest`` if a file is not the locked one, with code ``load_error`` if the lock file cannot be read.
        """
        lock = read_lock(self.lockfile)
        return load_locked(self, lock, lock.find_required(self.repo_id), target)


def load_locked(repository: LayerRepository | LockedLayerRepository, lock: Lock, entry: LockedRepository, target: Target) -> KernelLayer:
    """Return a repository's layer at the commit and with the files of a lock's entry; the lock has its dependencies too.

    Raises:
        RepositoryError: As `LockedLayerRepository.load_for`.
    """

    def open_dependency(request: RepositoryRequest) -> LockedSnapshot:
        return open_locked(lock, lock.find(request), repository.trust_remote_code)

    snapshot = open_locked(lock, entry, repository.trust_remote_code)
    return load_layer(snapshot, repository.layer_name, target, dependencies=open_dependency, when=repository.when)


def machine() -> Target:
    """Return this machine as a target, with its accelerator where there is one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return Target.of_machine(accelerator.type if accelerator is not None else "cpu")


def _set(value: _LayerRepository, **fields: object) -> None:
    """Set fields of a frozen value."""
    for name, field in fields.items():
        object.__setattr__(value, name, field)


def _checked_name(layer_name: str) -> str:
    if not isinstance(layer_name, str) or not layer_name.isidentifier():
        raise ValueError(f"layer_name={layer_name!r} is no name of a class; it names one in the repository's layers, e.g. 'RMSNorm'")
    return layer_name


def _checked_trust(repo_id: str, trust_remote_code: bool | Sequence[str]) -> bool | tuple[str, ...]:
    is_allowed(repo_id, trust_remote_code)  # raises for another type
    return trust_remote_code if isinstance(trust_remote_code, bool) else tuple(trust_remote_code)


def _checked_constraints(when: str | Sequence[str]) -> tuple[str, ...]:
    texts = (when,) if isinstance(when, str) else when
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"when= is a constraint such as 'dim(x, -1) % 8 == 0', or a sequence of them, not {when!r}")
    for text in texts:
        try:
            parse(text)
        except ConstraintError as error:
            raise ValueError(f"when= has a text that is no constraint: {error}") from None
    return tuple(texts)


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
