"""Checks whether the files in the cache, or in a directory, are the published or locked ones. Nothing is downloaded and nothing is run.

Unlike a load, it checks every build, goes on after the first bad one, and accepts a build of which only some files were downloaded: the
files that are there must be right.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..errors import RepositoryError
from .builds.digests import verify_files
from .builds.metadata import FILE_NAME, parse_metadata
from .builds.paths import BUILD, variant_files
from .lock import Lock, LockedFiles, LockedRepository, LockedVariant
from .remote.cache import CachedRepository, ListedFile, files_of_build
from .snapshot import LocalSnapshot

Status = Literal["good", "bad", "partly", "absent", "unknown"]


@dataclass(frozen=True, slots=True)
class BuildStatus:
    """Whether one build is the published or locked one.

    Args:
        repository: The repository's id, or the directory.
        commit: The commit; None for a directory.
        variant: The build; None for a repository of which nothing is in the cache.
        status: ``good``: all files are there and right. ``partly``: the files that were downloaded are right. ``bad``: a file is wrong or
            does not belong there. ``absent``: nothing was downloaded. ``unknown``: there are no digests to check the files against.
        files: How many files were checked.
        message: What is wrong, or why it is not known.
    """

    repository: str
    commit: str | None
    variant: str | None
    status: Status
    files: int = 0
    message: str = ""


Check = Callable[[Mapping[str, Path]], int]
"""Checks the files of a build that are in the cache and returns how many files the whole build has. Raises if one is wrong."""


def verify_cached(repo_id: str, commit: str) -> list[BuildStatus]:
    """Return the status of each build of a commit in the cache, by the Hub's list of its files and the digests in its metadata."""
    cached = CachedRepository.of(repo_id)
    builds = cached.snapshot(commit) / BUILD
    variants = sorted(entry.name for entry in builds.iterdir() if entry.is_dir()) if builds.is_dir() else []
    if not variants:
        return [BuildStatus(repo_id, commit, None, "absent", message=f"nothing of it is in the cache ({cached.folder})")]
    listing = cached.listing(commit)
    return [
        _status(cached, commit, variant, functools.partial(_check_listed, listing, variant, f"{repo_id} ({variant})"))
        for variant in variants
    ]


def verify_lock(lock: Lock) -> list[BuildStatus]:
    """Return the status of each build that a lock has."""
    return [status for entry in lock.repositories for status in _verify_locked(entry, lock.where)]


def verify_directory(path: Path) -> list[BuildStatus]:
    """Return the status of each build in a directory in Hub layout, by the digests in its metadata.

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
            found.append(BuildStatus(str(path), None, variant, "bad", message=str(error)))
            continue
        why = "" if checked else f"{FILE_NAME} has no digests to check the files against"
        found.append(BuildStatus(str(path), None, variant, "good" if checked else "unknown", len(files), why))
    return found


def _verify_locked(entry: LockedRepository, lock_file: str) -> list[BuildStatus]:
    cached = CachedRepository.of(entry.repo_id)
    if entry.variants is not None:
        return [
            _status(cached, entry.commit, variant, functools.partial(_check_locked, build, f"{entry} ({variant})"))
            for variant, build in sorted(entry.variants.items())
        ]
    why = f"{lock_file} has no digests; the files are those that the Hub lists"
    found = verify_cached(entry.repo_id, entry.commit)
    return [replace(build, status="unknown", message=why) if build.status in ("good", "partly") else build for build in found]


def _status(cached: CachedRepository, commit: str, variant: str, check: Check) -> BuildStatus:
    directory = cached.snapshot(commit) / BUILD / variant
    if not directory.is_dir():
        return BuildStatus(cached.repo_id, commit, variant, "absent", message="it was not downloaded")
    try:
        files = variant_files(directory, cached.folder)
        total = check(files)
    except RepositoryError as error:
        return BuildStatus(cached.repo_id, commit, variant, "bad", message=str(error))
    if len(files) < total:
        return BuildStatus(cached.repo_id, commit, variant, "partly", len(files), f"{len(files)} of {total} files were downloaded")
    return BuildStatus(cached.repo_id, commit, variant, "good", len(files))


def _check_locked(build: LockedVariant, where: str, files: Mapping[str, Path]) -> int:
    if not isinstance(build, LockedFiles):
        build.verify(files, where)
        return len(files)
    LockedFiles(build.digests.of(files)).verify(files, where)
    return len(build.digests.files)


def _check_listed(listing: Mapping[str, ListedFile] | None, variant: str, where: str, files: Mapping[str, Path]) -> int:
    verify_files(files, None, where)  # by their names in the cache, which are the Hub's hashes
    metadata = files.get(FILE_NAME)
    digest = parse_metadata(metadata.read_bytes(), f"{where}: {FILE_NAME}").digest if metadata is not None else None
    if digest is not None:
        verify_files(files, digest.of(files), where)
    if listing is None:
        return len(files)
    listed = files_of_build(listing, variant)
    problems = [f"{name} is not part of it" for name in files if name not in listed]
    changed = [name for name in files if name in listed and not listed[name].has_content_of(files[name])]
    problems += [f"{name} is not the file that the commit has" for name in changed]
    if problems:
        raise RepositoryError("digest", "\n  ".join([f"{where} is not the build that was published:", *problems]))
    return len(listed)
