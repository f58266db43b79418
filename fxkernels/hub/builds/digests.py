"""Whether a build's files are those that were published: by digests from its metadata or a lock file, else by their names in the cache.

A file is read once per process. After that, its digest is remembered for as long as the file's stamp (inode, size, times) stays the same.
Nothing is remembered on disk: a program that can change a kernel there could change the record as well.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ...errors import RepositoryError
from .paths import BLOBS, SNAPSHOTS

T = TypeVar("T")

# kernel-builder lists every file of a build but these: the first has the list, and the second signs the first.
_NEVER_LISTED = frozenset({"metadata.json", "metadata.json.sigstore"})
_GIT_BLOB = "git blob"
# The names that the cache of huggingface_hub gives to large and to small files. Mirrors of the Hub may use a plain SHA-1 for the latter.
_ALGORITHMS_OF_NAMES = ((re.compile(r"[0-9a-f]{64}"), ("sha256",)), (re.compile(r"[0-9a-f]{40}"), (_GIT_BLOB, "sha1")))
_SHOWN_DIGITS = 12
_SHOWN_PROBLEMS = 5
# Below this many bytes, starting threads takes as long as hashing.
_WORTH_THREADS = 4 << 20
_MOST_THREADS = 8
# A file that is younger than this can be written again within the same tick of its file system's clock, with the same stamp.
_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Digests:
    """What the files of a build must hash to.

    Args:
        algorithm: ``"sha256"`` or ``"sha512"``.
        files: The digest of each file, by its path in the variant's directory. All files of the build but ``metadata.json`` are listed.
    """

    algorithm: str
    files: Mapping[str, bytes] = field(hash=False)

    def of(self, names: Container[str]) -> Digests:
        """Return the digests of the files with these names."""
        return Digests(self.algorithm, {name: digest for name, digest in self.files.items() if name in names})


@dataclass(frozen=True, slots=True)
class _Stamp:
    """A file whose stamp is the same is unchanged. The process is part of it: a forked child starts with its parent's memory."""

    process: int
    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


# By path and algorithm.
_remembered: dict[tuple[Path, str], tuple[_Stamp, bytes]] = {}


def verify_files(files: Mapping[str, Path], expected: Digests | None, where: str) -> None:
    """Check that the files of a build are those that were published: each of them, none missing, none more.

    In the cache of `huggingface_hub` a file's name is its hash. There, files that `expected` does not list are checked by their names: the
    metadata itself, and everything in a build without digests.

    Args:
        files: The build's files, as `fxkernels.hub.builds.paths.variant_files` returns them.
        expected: The digests from the build's metadata or from a lock file; None if there are none.
        where: How to name the build in errors, e.g. ``"acme/norms@9a31f0c (torch-cpu)"``.

    Raises:
        RepositoryError: With code ``digest``, naming each file that is changed, missing or not part of the build, and what to do.
    """
    listed = expected.files.keys() if expected is not None else set()
    in_cache = any(path.parent.name == BLOBS for path in files.values())

    def problem(name: str) -> str | None:
        if name not in files:
            return "is missing"
        try:
            if expected is not None and (name in listed or name not in _NEVER_LISTED):
                return _listed_problem(files[name], expected.files.get(name), expected.algorithm)
            return _named_problem(files[name]) if in_cache else None
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"

    found = _for_each(problem, sorted(files.keys() | listed), files.values())
    if problems := {name: text for name, text in found.items() if text is not None}:
        bad = [files[name] for name in problems if name in files]
        raise _refusal(where, [f"{name} {text}" for name, text in problems.items()], bad or list(files.values()))


def verify_content(content: bytes, path: Path, expected: bytes | None, algorithm: str, where: str) -> None:
    """Check the content of a file of a build that is about to be run.

    Args:
        content: The content, as it was read.
        path: The file, for the error.
        expected: Its digest; None if the build has no such file.
        algorithm: The digest's algorithm.
        where: How to name the build in errors.

    Raises:
        RepositoryError: With code ``digest``, if it is not what was published.
    """
    if (text := _difference(hashlib.new(algorithm, content).digest(), expected, algorithm, len(content))) is not None:
        raise _refusal(where, [f"{path} {text}"], [path])


def verify_file(path: Path, expected: bytes | None, algorithm: str, where: str) -> None:
    """Check a file of a build as `verify_content` does, without keeping its content.

    Raises:
        RepositoryError: With code ``digest``, if it is not what was published.
    """
    if (text := _listed_problem(path, expected, algorithm)) is not None:
        raise _refusal(where, [f"{path} {text}"], [path])


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits: the name of a large file on the Hub."""
    return _digest(path, "sha256").hex()


def git_blob_sha1(path: Path) -> str:
    """Return git's hash of a file in hexadecimal digits: the name of a small file on the Hub."""
    return _digest(path, _GIT_BLOB).hex()


def _listed_problem(path: Path, expected: bytes | None, algorithm: str) -> str | None:
    # A file that is not part of the build is not read.
    actual = _digest(path, algorithm) if expected is not None else b""
    return _difference(actual, expected, algorithm, path.stat().st_size)


def _difference(actual: bytes, expected: bytes | None, algorithm: str, size: int) -> str | None:
    if expected is None:
        return "is not part of it"
    if actual == expected:
        return None
    return f"({size} bytes) has the {algorithm} {_short(actual.hex())}, not {_short(expected.hex())}"


def _named_problem(path: Path) -> str | None:
    if path.parent.name != BLOBS:
        return "is not part of it: it was not downloaded"
    for pattern, algorithms in _ALGORITHMS_OF_NAMES:
        if pattern.fullmatch(path.name) is None:
            continue
        if any(_digest(path, algorithm).hex() == path.name for algorithm in algorithms):
            return None
        actual = _digest(path, algorithms[0]).hex()
        return f"({path.stat().st_size} bytes) has the {algorithms[0]} hash {_short(actual)}, not {_short(path.name)}"
    return None  # another server's blobs, whose names are not hashes


def _refusal(where: str, problems: list[str], files: Sequence[Path]) -> RepositoryError:
    lines = [f"{where} is not the build that was published:", *(f"  {problem}" for problem in problems[:_SHOWN_PROBLEMS])]
    if len(problems) > _SHOWN_PROBLEMS:
        lines.append(f"  ... and {len(problems) - _SHOWN_PROBLEMS} more")
    return RepositoryError("digest", "\n".join([*lines, _next_step(files)]))


def _next_step(files: Sequence[Path]) -> str:
    folder = next((folder for file in files for folder in file.parents if (folder / SNAPSHOTS).is_dir()), None)
    if folder is None:
        return "Put the published files back. If the change was meant, take 'digest' out of metadata.json or write the lock file anew."
    # Several repositories may share a blob; deleting one repository leaves the blob there.
    shared = [str(file.resolve()) for file in files if file.parent.name == BLOBS and file.is_symlink()]
    return f"Delete {' and '.join([str(folder), *shared])}, and load the kernel again: it is then downloaded anew."


def _short(digits: str) -> str:
    return f"{digits[:_SHOWN_DIGITS]}..."


def _for_each(function: Callable[[str], T], names: list[str], files: Iterable[Path]) -> dict[str, T]:
    """Return the function's result for each name, computed in threads where there is much to read: hashing releases the GIL."""
    threads = min(_MOST_THREADS, os.cpu_count() or 1, len(names))
    if threads < 2 or sum(path.stat().st_size for path in files if path.exists()) < _WORTH_THREADS:
        return {name: function(name) for name in names}
    with ThreadPoolExecutor(threads, thread_name_prefix="fxkernels-digests") as pool:
        return dict(zip(names, pool.map(function, names), strict=True))


def _digest(path: Path, algorithm: str) -> bytes:
    known = _remembered.get((path, algorithm))
    if known is not None and known[0] == _stamp(path.stat()):
        return known[1]
    with open(path, "rb", buffering=0) as file:
        before = _stamp(os.fstat(file.fileno()))
        if algorithm == _GIT_BLOB:
            header = f"blob {before.size}\0".encode()
            digest = hashlib.file_digest(file, lambda: hashlib.sha1(header, usedforsecurity=False)).digest()
        else:
            digest = hashlib.file_digest(file, algorithm).digest()
        after = _stamp(os.fstat(file.fileno()))
    if before == after and time.time_ns() - after.modified_ns > _SETTLED_NS:
        _remembered[path, algorithm] = (after, digest)
    return digest


def _stamp(status: os.stat_result) -> _Stamp:
    return _Stamp(os.getpid(), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
