"""A repository on the Hub as a lock has it: at the locked commit, with the locked builds and files."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import RepositoryError
from ..builds.digests import Digests
from ..builds.metadata import Metadata
from ..builds.paths import variant_files
from ..overrides import VARIABLE, local_override
from ..remote.cache import CachedRepository
from ..remote.hub_snapshot import HubSnapshot
from ..remote.trust import require_trust
from .lock import Lock, LockedFiles, LockedRepository, LockedVariant

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
            f"{VARIABLE} replaces {entry.repo_id} with {directory}, and {lock.where} locks it to {entry.commit[:7]}\n"
            f"  Take it out of {VARIABLE}, or load without the lock file: only locked repositories may run under a lock.",
        )
    require_trust(entry.repo_id, entry.commit, trust_remote_code)
    return LockedSnapshot(entry, lock.where)


@functools.cache
def _warn_of_no_digests(lock_file: str, name: str) -> None:
    _log.warning(
        "%s has the commit of %s and no digests: its files are checked against the Hub's list, not against the lock", lock_file, name
    )
