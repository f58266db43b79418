"""Where a kernel repository lies in huggingface_hub's cache, and the two things written there besides the client's own files.

The layout is the client's: ``kernels--org--name/{refs/<name>, snapshots/<commit>/..., blobs/<digest>}``. Written here are refs, in the same
place and form, so that an offline run finds what an online one resolved; and ``fxkernels/<commit>.json``, the list of the files under
``build/`` at a commit with what git calls their content, so that a half-downloaded or changed build is known as such.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ...cache_directory import read_record, write_atomically
from ...errors import RepositoryError
from ..builds.kernel_dependency import is_repo_id, is_revision
from ..integrity.paths import check_relative_path

FULL_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,39}")
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of a commit, as the Hub lists it.

    Args:
        size: In bytes.
        sha1: The git blob's name, for a file that lies in git itself.
        sha256: Its content's digest, for a file in LFS. With neither, all that is known of its content is the name it has in the cache.
    """

    size: int
    sha1: str | None = None
    sha256: str | None = None

    def is_known_as(self, blob: str) -> bool:
        """Whether a blob of this name in the cache is this file."""
        return blob == self.sha256 if self.sha256 is not None else self.sha1 in (None, blob)


@dataclass(frozen=True, slots=True)
class CachedRepository:
    """A repository's folder in the cache. It need not exist.

    Args:
        repo_id: Organization and name.
        folder: ``<HF_HUB_CACHE>/kernels--org--name``.
    """

    repo_id: str
    folder: Path

    @classmethod
    def of(cls, repo_id: str) -> CachedRepository:
        """Return the folder in the cache that ``HF_HOME`` or ``HF_HUB_CACHE`` name."""
        from huggingface_hub import constants

        if not is_repo_id(repo_id):
            raise ValueError(f"{repo_id!r} is no repository on the Hub; its id has the form organization/name, e.g. 'acme/norms'")
        return cls(repo_id, Path(constants.HF_HUB_CACHE).expanduser() / f"kernels--{repo_id.replace('/', '--')}")

    def snapshot(self, commit: str) -> Path:
        """Where a commit's files are."""
        return self.folder / "snapshots" / commit

    # --- refs ---

    def commit_of(self, revision: str) -> str | None:
        """Return the commit that a branch, a tag or the beginning of a commit stood for when it was last resolved."""
        if FULL_COMMIT.fullmatch(revision):
            return revision
        if not is_revision(revision):
            return None
        with contextlib.suppress(OSError, ValueError):
            commit = (self.folder / "refs" / revision).read_text().strip()
            if FULL_COMMIT.fullmatch(commit):
                return commit
        if not _SHORT_COMMIT.fullmatch(revision):
            return None
        known = [commit for commit in self.commits() if commit.startswith(revision)]
        return known[0] if len(known) == 1 else None

    def commits(self) -> list[str]:
        """The commits of which something is in the cache."""
        with contextlib.suppress(OSError):
            return sorted(entry.name for entry in (self.folder / "snapshots").iterdir() if FULL_COMMIT.fullmatch(entry.name))
        return []

    def refs(self) -> dict[str, str]:
        """The names that were resolved before, and the commits that they stood for."""
        folder = self.folder / "refs"
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
        return {name: commit for name in sorted(names) if (commit := self.commit_of(name)) is not None}

    def remember(self, revision: str, commit: str) -> None:
        """Write what a name stands for.

        Raises:
            OSError: If the cache cannot be written.
        """
        if is_revision(revision) and self.commit_of(revision) != commit:
            write_atomically(self.folder / "refs" / revision, commit)

    # --- the list of files ---

    def listing(self, commit: str) -> dict[str, ListedFile] | None:
        """Return the files under ``build/`` at a commit, or None if that is not known. A list that cannot be read is not known."""
        record = read_record(self._listing(commit))
        if record is None or record.get("format") != _FORMAT:
            return None
        try:
            return {check_relative_path(path): ListedFile(**file) for path, file in record["files"].items()}
        except (RepositoryError, AttributeError, KeyError, TypeError):
            return None

    def write_listing(self, commit: str, files: Mapping[str, ListedFile]) -> None:
        """Keep the list of the files under ``build/`` at a commit.

        Raises:
            OSError: If the cache cannot be written.
        """
        entries = {path: {name: value for name, value in asdict(files[path]).items() if value is not None} for path in sorted(files)}
        write_atomically(self._listing(commit), json.dumps({"format": _FORMAT, "files": entries}, indent=1) + "\n")

    def forget_listing(self, commit: str) -> None:
        """Let the list of a commit's files be asked for again."""
        with contextlib.suppress(OSError):
            self._listing(commit).unlink()

    def _listing(self, commit: str) -> Path:
        return self.folder / "fxkernels" / f"{commit}.json"
