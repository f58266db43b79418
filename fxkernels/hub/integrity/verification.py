"""Whether what lies in the cache, or in a directory, is what was published or locked; nothing is downloaded, nothing is run.

Unlike a load, it looks at every build, goes on after the first bad one, and takes a build of which only some files were downloaded for what
it is: the files that are there must be right.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ...errors import RepositoryError
from ..builds.metadata import FILE_NAME, Digests, parse_metadata
from ..locks.lock import Lock, LockedFiles, LockedRepository, LockedVariant
from ..remote.cache import CachedRepository, ListedFile
from ..snapshot import LocalSnapshot
from .digests import git_blob_sha1, sha256_of, verify_files
from .paths import variant_files

BUILD = "build"
BYTE_CODE = (".pyc", ".pyo")  # never downloaded

Status = Literal["good", "bad", "partly", "absent", "unknown"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of checking one build.

    Args:
        repository: The repository's id, or the directory.
        commit: The commit; None for a directory.
        variant: The build; None for a repository of which nothing is there.
        status: ``good``: all files are there and right. ``partly``: so are those that were downloaded. ``bad``: a file is wrong or does not
            belong there. ``absent``: nothing was downloaded. ``unknown``: there is nothing to check the files against.
        files: How many files were looked at.
        message: What is wrong, or why it is not known.
    """

    repository: str
    commit: str | None
    variant: str | None
    status: Status
    files: int = 0
    message: str = ""


Check = Callable[[Mapping[str, Path]], int]
"""Checks the files of a build that are there and returns how many the whole build has; raises if one is wrong."""


def verify_cached(repo_id: str, commit: str) -> list[Verdict]:
    """Return a verdict for each build of a commit that is in the cache, by the Hub's list of its files and the digests in its metadata."""
    cached = CachedRepository.of(repo_id)
    builds = cached.snapshot(commit) / BUILD
    variants = sorted(entry.name for entry in builds.iterdir() if entry.is_dir()) if builds.is_dir() else []
    if not variants:
        return [Verdict(repo_id, commit, None, "absent", message=f"nothing of it is in the cache ({cached.folder})")]
    listing = cached.listing(commit)
    return [
        _verdict(cached, commit, variant, functools.partial(_check_listed, listing, variant, f"{repo_id} ({variant})"))
        for variant in variants
    ]


def verify_lock(lock: Lock) -> list[Verdict]:
    """Return a verdict for each build that a lock has."""
    return [verdict for entry in lock.repositories for verdict in _verify_locked(entry, lock.where)]


def verify_directory(path: Path) -> list[Verdict]:
    """Return a verdict for each build in a directory in Hub layout, by the digests in its metadata.

    Raises:
        RepositoryError: With code ``load_error``, if it is no kernel repository.
    """
    snapshot = LocalSnapshot(path)
    found = []
    for variant in snapshot.variants():
        try:
            files = variant_files(snapshot.directory(variant), path)
            checked = snapshot.verify(variant) is not None
        except RepositoryError as error:
            found.append(Verdict(str(path), None, variant, "bad", message=str(error)))
            continue
        why = "" if checked else f"{FILE_NAME} has no digests to check the files against"
        found.append(Verdict(str(path), None, variant, "good" if checked else "unknown", len(files), why))
    return found


def _verify_locked(entry: LockedRepository, lock_file: str) -> list[Verdict]:
    cached = CachedRepository.of(entry.repo_id)
    if entry.variants is not None:
        return [
            _verdict(cached, entry.commit, variant, functools.partial(_check_locked, build, f"{entry} ({variant})"))
            for variant, build in sorted(entry.variants.items())
        ]
    why = f"{lock_file} has no digests; the files are those that the Hub lists"
    found = verify_cached(entry.repo_id, entry.commit)
    return [replace(verdict, status="unknown", message=why) if verdict.status in ("good", "partly") else verdict for verdict in found]


def _verdict(cached: CachedRepository, commit: str, variant: str, check: Check) -> Verdict:
    directory = cached.snapshot(commit) / BUILD / variant
    if not directory.is_dir():
        return Verdict(cached.repo_id, commit, variant, "absent", message="it was not downloaded")
    try:
        files = variant_files(directory, cached.folder)
        total = check(files)
    except RepositoryError as error:
        return Verdict(cached.repo_id, commit, variant, "bad", message=str(error))
    if len(files) < total:
        return Verdict(cached.repo_id, commit, variant, "partly", len(files), f"{len(files)} of {total} files were downloaded")
    return Verdict(cached.repo_id, commit, variant, "good", len(files))


def _check_locked(build: LockedVariant, where: str, files: Mapping[str, Path]) -> int:
    if not isinstance(build, LockedFiles):
        build.verify(files, where)
        return len(files)
    expected = build.digests
    here = {name: digest for name, digest in expected.files.items() if name in files}
    LockedFiles(Digests(expected.algorithm, here)).verify(files, where)
    return len(expected.files)


def _check_listed(listing: Mapping[str, ListedFile] | None, variant: str, where: str, files: Mapping[str, Path]) -> int:
    verify_files(files, None, where)  # the names in the cache are the hashes that the Hub gave
    metadata = files.get(FILE_NAME)
    digest = parse_metadata(metadata.read_bytes(), f"{where}: {FILE_NAME}").digest if metadata is not None else None
    if digest is not None:
        here = {name: expected for name, expected in digest.files.items() if name in files}
        verify_files(files, Digests(digest.algorithm, here), where)
    if listing is None:
        return len(files)
    prefix = f"{BUILD}/{variant}/"
    listed = {path.removeprefix(prefix): file for path, file in listing.items() if path.startswith(prefix) and not path.endswith(BYTE_CODE)}
    problems = [f"{name} is not part of it" for name in files if name not in listed]
    problems += [f"{name} is not the file that the commit has" for name in files if name in listed and not _is(files[name], listed[name])]
    if problems:
        raise RepositoryError("digest", "\n  ".join([f"{where} is not the build that was published:", *problems]))
    return len(listed)


def _is(file: Path, listed: ListedFile) -> bool:
    if listed.sha256 is not None:
        return sha256_of(file) == listed.sha256
    return listed.sha1 is None or git_blob_sha1(file) == listed.sha1
