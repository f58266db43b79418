"""A kernel repository in one state. What comes after it is the same for a directory, the Hub and a lock file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..errors import RepositoryError
from .builds.metadata import Digests, Metadata, read_metadata
from .integrity.digests import verify_files
from .integrity.paths import variant_files

LAYOUT = "<repository>/build/<variant>/{metadata.json, __init__.py, layers.py}, e.g. build/torch-universal/"


class Snapshot(Protocol):
    """A repository in one state, from which nothing was imported yet."""

    @property
    def name(self) -> str:
        """How errors and reports name the repository: its id, or its directory's name."""

    @property
    def revision(self) -> str | None:
        """The commit; None for a directory."""

    @property
    def where(self) -> str:
        """How errors name it so that one can find it."""

    def variants(self) -> tuple[str, ...]:
        """The names of its builds."""

    def metadata(self, variant: str) -> Metadata:
        """Return what a build says about itself; nothing else of the build is fetched."""

    def directory(self, variant: str) -> Path:
        """Return where a build is, with all its files, fetched if need be. What they hold is not yet verified."""

    def verify(self, variant: str) -> Digests | None:
        """Check the files of a build against the digests that are known of them; return those from its metadata or a lock.

        Raises:
            RepositoryError: With code ``digest``, naming the file that was changed, is missing or does not belong there.
        """


@dataclass(frozen=True, slots=True)
class LocalSnapshot:
    """A directory in Hub layout.

    Args:
        path: The directory that has ``build/`` in it.
        stands_for: The repository on the Hub in whose place it is used. The digests in its metadata are then not checked: somebody is
            working on its files.
    """

    path: Path
    stands_for: str | None = None

    @property
    def name(self) -> str:
        return self.stands_for or self.path.name

    @property
    def revision(self) -> None:
        return None

    @property
    def where(self) -> str:
        return str(self.path) if self.stands_for is None else f"{self.stands_for} (local override {self.path})"

    def variants(self) -> tuple[str, ...]:
        build = self.path / "build"
        if not build.is_dir():
            found = "has no build/ directory" if self.path.is_dir() else "is not a directory"
            raise RepositoryError("load_error", f"{self.path} {found}; a kernel repository looks like this: {LAYOUT}")
        return tuple(sorted(entry.name for entry in build.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__"))))

    def metadata(self, variant: str) -> Metadata:
        return read_metadata(self.directory(variant))

    def directory(self, variant: str) -> Path:
        return self.path / "build" / variant

    def verify(self, variant: str) -> Digests | None:
        directory = self.directory(variant)
        files = variant_files(directory, self.path)
        digest = read_metadata(directory).digest if self.stands_for is None else None
        verify_files(files, digest, str(directory))
        return digest
