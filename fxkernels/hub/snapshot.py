"""A kernel repository in one state: a directory, a commit on the Hub (`HubSnapshot`) or what a lock has (`LockedSnapshot`).

A directory of the user can replace a repository on the Hub, for work on a kernel: ``FXKERNELS_LOCAL="acme/norms=/home/me/norms"``. That is
the user's own declaration, so neither trust nor digests are checked. It is logged, and every report names it.
"""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..errors import RepositoryError
from .builds.digests import Digests, verify_files
from .builds.metadata import Metadata, read_metadata
from .builds.paths import BUILD, variant_files

LAYOUT = "<repository>/build/<variant>/{metadata.json, __init__.py, layers.py}, e.g. build/torch-universal/"


class Snapshot(Protocol):
    """A repository in one state, of which nothing was imported yet."""

    @property
    def name(self) -> str:
        """How errors and reports name the repository: its id, or its directory's name."""

    @property
    def revision(self) -> str | None:
        """The commit; None for a directory."""

    @property
    def where(self) -> str:
        """How errors name it, with its place."""

    def variants(self) -> tuple[str, ...]:
        """The names of its builds."""

    def metadata(self, variant: str) -> Metadata:
        """Return a build's metadata; nothing else of the build is fetched."""

    def directory(self, variant: str) -> Path:
        """Return a build's directory, with all its files, fetched if need be. They are not yet verified."""

    def verify(self, variant: str) -> Digests | None:
        """Check the files of a build against their known digests; return the digests from its metadata or a lock.

        Raises:
            RepositoryError: With code ``digest``, naming the file that was changed, is missing or does not belong there.
        """


@dataclass(frozen=True, slots=True)
class LocalSnapshot:
    """A directory in Hub layout.

    Args:
        path: The directory that has ``build/`` in it.
        overrides: The repository on the Hub that it replaces. The digests in its metadata are then not checked: its files are being
            edited.
    """

    path: Path
    overrides: str | None = None

    @property
    def name(self) -> str:
        return self.overrides or self.path.name

    @property
    def revision(self) -> None:
        return None

    @property
    def where(self) -> str:
        return str(self.path) if self.overrides is None else f"{self.overrides} (local override {self.path})"

    def variants(self) -> tuple[str, ...]:
        build = self.path / BUILD
        if not build.is_dir():
            found = "has no build/ directory" if self.path.is_dir() else "is not a directory"
            raise RepositoryError("load_error", f"{self.path} {found}; a kernel repository looks like this: {LAYOUT}")
        return tuple(sorted(entry.name for entry in build.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__"))))

    def metadata(self, variant: str) -> Metadata:
        return read_metadata(self.directory(variant))

    def directory(self, variant: str) -> Path:
        return self.path / BUILD / variant

    def verify(self, variant: str) -> Digests | None:
        directory = self.directory(variant)
        files = variant_files(directory, self.path)
        digest = read_metadata(directory).digest if self.overrides is None else None
        verify_files(files, digest, str(directory))
        return digest


LOCAL_VARIABLE = "FXKERNELS_LOCAL"

_log = logging.getLogger("fxkernels")


def local_override(repo_id: str) -> Path | None:
    """Return the directory that replaces a repository; None if there is none.

    Raises:
        ValueError: If ``FXKERNELS_LOCAL`` is malformed, also in an entry about another repository.
        RepositoryError: With code ``load_error``, if the directory does not exist.
    """
    value = os.environ.get(LOCAL_VARIABLE, "")
    if not value.strip():
        return None
    path = _parsed(value).get(repo_id)
    if path is None:
        return None
    directory = Path(path).expanduser().absolute()
    if not directory.is_dir():
        raise RepositoryError("load_error", f"{LOCAL_VARIABLE} replaces {repo_id} with {directory}, which is not a directory")
    _warn_once(repo_id, directory)
    return directory


@functools.lru_cache(maxsize=16)
def _parsed(value: str) -> dict[str, str]:
    paths: dict[str, str] = {}
    for entry in value.split(","):
        repo_id, equals, path = (part.strip() for part in entry.partition("="))
        if not entry.strip():
            continue
        if not (equals and path and repo_id.count("/") == 1 and all(repo_id.split("/"))):
            raise ValueError(
                f"{LOCAL_VARIABLE} has {entry.strip()!r}; it has the form organization/name=path, several with commas between them"
            )
        if repo_id in paths:
            raise ValueError(f"{LOCAL_VARIABLE} has two paths for {repo_id}: {paths[repo_id]} and {path}")
        paths[repo_id] = path
    return paths


@functools.cache
def _warn_once(repo_id: str, directory: Path) -> None:
    _log.warning("%s is taken from %s, because %s says so: neither trust nor digests are checked", repo_id, directory, LOCAL_VARIABLE)
