"""The files of a build: paths from outside are checked before use, and links must not leave the repository."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from ...errors import RepositoryError

# A colon separates a drive letter, or on NTFS a hidden stream of a file. Control characters include NUL, at which C stops reading a name.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\:]")
BUILD = "build"
"""The folder of a repository that has its builds."""

_BYTE_CODE_FOLDER = "__pycache__"
# The folders of huggingface_hub: a file of a snapshot is a link into `blobs`. As of 2.4 a blob may itself be a link into a store that all
# repositories of the cache share, <cache>/blobs/ab/<64 hex digits>.
SNAPSHOTS, BLOBS = "snapshots", "blobs"
_SHARED_BLOB = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}")


def check_relative_path(path: str, where: str | None = None) -> str:
    """Return `path` if it names a file below the directory that it is relative to, on every operating system.

    Args:
        path: A path from metadata, a lock file or a server's listing, with ``/`` between its parts.
        where: What the path was read from, for the error.

    Raises:
        RepositoryError: With code ``load_error``, if the path is absolute, leaves its directory, or could be read differently by another
            system or program.

    Example:
        >>> check_relative_path("build/torch-cpu/layers.py")
        'build/torch-cpu/layers.py'
    """
    problem = _problem(path)
    if problem is None:
        return path
    source = f"{where}: the" if where else "The"
    message = f"{source} path {path!r} {problem}; paths in a kernel repository look like 'layers.py' or 'ops/norm.py'"
    raise RepositoryError("load_error", message)


def is_byte_code(path: str) -> bool:
    """Return whether a path in a repository is byte code, which is never downloaded."""
    return path.endswith((".pyc", ".pyo")) or _BYTE_CODE_FOLDER in path.split("/")[:-1]


def variant_files(directory: Path, root: Path) -> dict[str, Path]:
    """Return the files below `directory`, by path relative to it, with ``/`` between the parts.

    In the cache of `huggingface_hub` the files of a snapshot are links; the blobs that they point to are returned. Byte code in a
    ``__pycache__`` is left out: it is never read.

    Args:
        directory: A build variant's directory.
        root: The repository: a directory that has ``build/`` in it, or its folder in the cache, which has ``snapshots/`` and ``blobs/``.

    Raises:
        RepositoryError: With code ``load_error``, naming the file, if the directory cannot be read, or if an entry is a link to a
            directory, a link out of the repository, or neither a file nor a directory.
    """
    root = root.absolute()
    relative = directory.absolute().relative_to(root)
    try:
        real_root = root.resolve(strict=True)
        if directory.resolve(strict=True) != real_root / relative:
            raise _refused(directory, "lies behind a link, and links to directories are not followed")
        links = _Links(real_root, in_cache=relative.parts[:1] == (SNAPSHOTS,))
        found: dict[str, Path] = {}
        _collect(real_root / relative, "", links, found)
    except OSError as error:
        raise RepositoryError("load_error", f"{directory} cannot be read: {error}") from error
    return dict(sorted(found.items()))


class _Links:
    """Where the links of one repository may lead."""

    def __init__(self, root: Path, *, in_cache: bool) -> None:
        self.root = root
        self.in_cache = in_cache
        blobs = root / BLOBS
        # None if that folder is a link itself: its files are elsewhere then.
        self.blobs = None if blobs.is_symlink() else str(blobs)

    def follow(self, link: Path) -> Path:
        target = os.readlink(link)
        if (blob := self._plain_blob(link, target)) is not None:
            return blob
        try:
            file = link.resolve(strict=True)
        except (OSError, RuntimeError):  # Python before 3.13 raises RuntimeError for links in a circle
            raise _refused(link, f"is a link to {target!r}, which does not exist") from None
        if file.is_dir():
            raise _refused(link, "is a link to a directory")
        if not file.is_file():
            raise _refused(link, f"is a link to {file}, which is not a file")
        # In the cache the blob, even where it is itself a link: a blob's name is the hash of its content.
        found = Path(os.path.normpath(link.parent / target)) if self.in_cache else file
        if not (self._is_blob(found, file) if self.in_cache else file.is_relative_to(self.root)):
            raise _refused(link, f"is a link to {file}, which is not part of the repository in {self.root}")
        return found

    def _plain_blob(self, link: Path, target: str) -> Path | None:
        """Return the blob for the common case: a link into the repository's own folder, to a file that is no link itself.

        That takes one system call; to resolve a link takes one for each folder above it.
        """
        folder, name = os.path.split(os.path.normpath(os.path.join(link.parent, target)))
        if not self.in_cache or folder != self.blobs:
            return None
        try:
            status = os.lstat(os.path.join(folder, name))
        except OSError:
            return None
        return Path(folder, name) if stat.S_ISREG(status.st_mode) else None

    def _is_blob(self, blob: Path, file: Path) -> bool:
        if blob.parent != self.root / BLOBS:
            return False
        shared = self.root.parent / BLOBS
        if file.is_relative_to(shared):
            return _SHARED_BLOB.fullmatch(file.relative_to(shared).as_posix()) is not None
        return file == blob


def _collect(directory: Path, prefix: str, links: _Links, found: dict[str, Path]) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            name, path = prefix + entry.name, directory / entry.name
            check_relative_path(name, str(directory))
            if entry.is_symlink():
                file = links.follow(path)
            elif entry.is_dir():
                _collect(path, f"{name}/", links, found)
                continue
            elif entry.is_file():
                file = path
            else:
                raise _refused(path, "is neither a file nor a directory")
            if not (entry.name.endswith(".pyc") and directory.name == _BYTE_CODE_FOLDER):
                found[name] = file


def _refused(path: Path, problem: str) -> RepositoryError:
    return RepositoryError(
        "load_error",
        f"{path} {problem}\n  A build consists of plain files; in the cache they are links into the repository's own {BLOBS}/. "
        "Delete the link, or replace it with a copy of the file (`cp -rL`).",
    )


def _problem(path: str) -> str | None:
    if not path:
        return "is empty"
    if (forbidden := _FORBIDDEN.search(path)) is not None:
        return f"has a {forbidden[0]!r} in it"
    if path.startswith("/"):
        return "is absolute"
    for part in path.split("/"):
        if part == "..":
            return "leaves its directory"
        # Windows drops dots and spaces at the end of a name, so that two spellings would be one file (and '.. ' the directory above).
        if part != part.rstrip(". "):
            return f"has a part that is no plain name ({part!r})"
        if not part:
            return "has an empty part"
    # Lone surrogates: Python decodes bytes of a file name that are no text to them, and so does JSON with some escapes.
    if not path.isascii() and path.encode(errors="ignore").decode() != path:
        return "is not valid Unicode"
    return None
