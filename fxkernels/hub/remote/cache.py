"""A kernel repository in huggingface_hub's cache.

The layout is the client's: ``kernels--org--name/{refs/<name>, snapshots/<commit>/..., blobs/<digest>}``. fxkernels adds refs in the
client's form, so that an offline run finds what an online one resolved. It also adds ``fxkernels/<commit>.json``, the list of the files
under ``build/`` at a commit with their hashes, by which a half-downloaded or changed build is detected.
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
from ..builds.digests import git_blob_sha1, sha256_of
from ..builds.paths import BUILD, SNAPSHOTS, check_relative_path, is_byte_code
from ..request import FULL_COMMIT, check_repo_id, is_revision

_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,39}")
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of a commit, as the Hub lists it.

    Args:
        size: In bytes.
        sha1: The hash of the git blob, for a file in git itself.
        sha256: The digest of the content, for a file in LFS. With neither, only the file's name in the cache tells its content.
    """

    size: int
    sha1: str | None = None
    sha256: str | None = None

    def has_blob_name(self, name: str) -> bool:
        """Return whether the blob of this name in the cache is this file."""
        return name == self.sha256 if self.sha256 is not None else self.sha1 in (None, name)

    def has_content_of(self, path: Path) -> bool:
        """Return whether a file on disk has the content of this one, as far as the list tells."""
        file = path.resolve()
        if self.sha256 is not None:
            return sha256_of(file) == self.sha256
        return self.sha1 is None or git_blob_sha1(file) == self.sha1


def files_of_build(listing: Mapping[str, ListedFile], variant: str) -> dict[str, ListedFile]:
    """Return the files of a build among those of a commit, by path in the variant's directory.

    Byte code is left out: it is never downloaded or read.
    """
    prefix = f"{BUILD}/{variant}/"
    return {path.removeprefix(prefix): file for path, file in listing.items() if path.startswith(prefix) and not is_byte_code(path)}


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

        check_repo_id(repo_id)
        return cls(repo_id, Path(constants.HF_HUB_CACHE).expanduser() / f"kernels--{repo_id.replace('/', '--')}")

    def snapshot(self, commit: str) -> Path:
        """Return the folder of a commit's files."""
        return self.folder / SNAPSHOTS / commit

    # --- refs ---

    def commit_of(self, revision: str) -> str | None:
        """Return the commit of a branch, a tag or the beginning of a commit, as it was last resolved."""
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
        """Return the commits of which there are files in the cache."""
        with contextlib.suppress(OSError):
            return sorted(entry.name for entry in (self.folder / SNAPSHOTS).iterdir() if FULL_COMMIT.fullmatch(entry.name))
        return []

    def refs(self) -> dict[str, str]:
        """Return the names that were resolved before, with their commits."""
        folder = self.folder / "refs"
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
        return {name: commit for name in sorted(names) if (commit := self.commit_of(name)) is not None}

    def write_ref(self, revision: str, commit: str) -> None:
        """Keep the commit of a name.

        Raises:
            OSError: If the cache cannot be written.
        """
        if is_revision(revision) and self.commit_of(revision) != commit:
            write_atomically(self.folder / "refs" / revision, commit)

    # --- the list of files ---

    def listing(self, commit: str) -> dict[str, ListedFile] | None:
        """Return the files under ``build/`` at a commit; None if there is no list, or none that can be read."""
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
