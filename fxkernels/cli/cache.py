"""`fxkernels download` fetches kernels into the cache, and `fxkernels verify` checks whether the files there are the published ones."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..hub import (
    BuildStatus,
    CachedRepository,
    RepositoryRequest,
    Snapshot,
    choose_build,
    is_repo_id,
    open_commit,
    open_locked,
    read_lock,
    verify_cached,
    verify_directory,
    verify_lock,
)
from .output import CommandOutput, paragraph, prints_output, request_options, size, target_of, target_option, trust_option

if TYPE_CHECKING:
    from ..target import Target


@click.command(short_help="Download a kernel repository into the cache.")
@click.argument("repo_id", metavar="[REPO]", required=False)
@request_options
@click.option("--lockfile", type=click.Path(path_type=Path), metavar="FILE", help="Download everything that a lock file has, instead.")
@target_option
@click.option("--all-variants", is_flag=True, help="All builds instead of the one that fits the target.")
@trust_option
@prints_output
def download(
    repo_id: str | None,
    version: int | None,
    revision: str | None,
    lockfile: Path | None,
    target: str | None,
    all_variants: bool,
    trusted: tuple[str, ...],
) -> CommandOutput:
    """Download a kernel repository and its dependencies, check the files, and record that its publisher is trusted.

    Afterwards the kernel can be loaded with HF_HUB_OFFLINE=1. Nothing is run. Files that are in the cache are not fetched again.

    \b
    Examples:
      fxkernels download kernels-community/activation --version 1
      fxkernels download acme/norms --revision main --all-variants
      fxkernels download acme/norms --version 1 --for "cuda:sm90 cu130"
      fxkernels download --lockfile fxkernels.lock
    """

    if all_variants and target is not None:
        raise click.UsageError("--all-variants and --for contradict each other")
    wanted = None if all_variants else target_of(target)
    if lockfile is not None:
        if repo_id is not None or version is not None or revision is not None:
            raise click.UsageError("--lockfile says what to download; give no REPO, --version or --revision with it")
        return _output(_locked(lockfile, wanted, trusted))
    if repo_id is None:
        raise click.UsageError("give a REPO such as acme/norms, or --lockfile")
    request = RepositoryRequest(repo_id, version=version, revision=revision)
    return _output(_with_dependencies(request, wanted, trusted))


def _with_dependencies(request: RepositoryRequest, target: Target | None, trusted: Sequence[str]) -> list[dict[str, Any]]:

    found: list[dict[str, Any]] = []
    seen: set[RepositoryRequest] = set()
    waiting = [request]
    while waiting:
        request = waiting.pop(0)
        if request in seen:
            continue
        seen.add(request)
        builds, dependencies = _fetched(open_commit(request, trusted), target)
        found += builds
        waiting += dependencies
    return found


def _locked(lockfile: Path, target: Target | None, trusted: Sequence[str]) -> list[dict[str, Any]]:

    lock = read_lock(lockfile)
    # For a target, only what its builds depend on. The lock of the `kernels` package does not say what the project requires.
    waiting = [lock.find(request) for request in lock.requires] if lock.requires and target is not None else list(lock.repositories)
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    while waiting:
        entry = waiting.pop(0)
        if str(entry) not in seen:
            seen.add(str(entry))
            builds, dependencies = _fetched(open_locked(lock, entry, trusted), target)
            found += builds
            waiting += [lock.find(dependency) for dependency in dependencies]
    return found


def _fetched(snapshot: Snapshot, target: Target | None) -> tuple[list[dict[str, Any]], list[RepositoryRequest]]:
    """Download and check the builds of a repository, the one that fits or all; return them and their dependencies."""

    variants = snapshot.variants() if target is None else (choose_build(snapshot, target)[0],)
    builds: list[dict[str, Any]] = []
    dependencies: list[RepositoryRequest] = []
    for variant in variants:
        directory = snapshot.directory(variant)
        snapshot.verify(variant)
        dependencies += snapshot.metadata(variant).kernel_depends
        sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
        builds.append(
            {
                "repository": snapshot.name,
                "commit": snapshot.revision,
                "variant": variant,
                "path": str(directory),
                "files": len(sizes),
                "bytes": sum(sizes),
            }
        )
    return builds, dependencies


def _output(builds: list[dict[str, Any]]) -> CommandOutput:
    lines: list[str] = []
    for build in builds:
        text = f"{build['repository']}@{build['commit'][:7]} {build['variant']}: {build['files']} files, {size(build['bytes'])}"
        lines += [*paragraph(text, "  ", ""), f"  {build['path']}"]
    return CommandOutput({"builds": builds}, tuple(lines))


_WORDS = {"good": "good", "bad": "BAD", "partly": "partly", "absent": "absent", "unknown": "UNKNOWN"}


@click.command(short_help="Check cached kernels against a lock file or the Hub.")
@click.argument("subject", metavar="LOCKFILE|REPO|DIRECTORY")
@request_options
@prints_output
def verify(subject: str, version: int | None, revision: str | None) -> CommandOutput:
    """Check files in the cache: against a lock file, or, for a repository, against the Hub's list when they were downloaded and the digests
    in their metadata. A directory in Hub layout is checked against the digests in its metadata.

    A file of that name is a lock file. Otherwise org/name is a repository in the cache (all its commits, or one), and any other name a
    directory. Nothing is downloaded and nothing is run.

    \b
    The exit code is 1 if
      a file is changed, or does not belong there (BAD)
      there is nothing to check a build against (UNKNOWN)
      there was nothing to check

    \b
    Examples:
      fxkernels verify fxkernels.lock
      fxkernels verify kernels-community/activation --version 1
      fxkernels verify ./my-kernel
    """
    builds = _checked(subject, version, revision)
    lines: list[str] = []
    for build in builds:
        commit = f"@{build.commit[:7]}" if build.commit is not None else ""
        lines += paragraph(f"{_WORDS[build.status]:<8}{build.repository}{commit} {build.variant or ''}".rstrip(), " " * 8, "")
        lines += paragraph(build.message, " " * 8)
    counts: Counter[str] = Counter(build.status for build in builds)
    totals = ", ".join(f"{counts[status]} {word}" for status, word in _WORDS.items() if counts[status])
    lines.append(f"{len(builds)} {'build' if len(builds) == 1 else 'builds'}: {totals}" if builds else "no builds")
    value = {"subject": subject, "builds": [dataclasses.asdict(build) for build in builds]}
    return CommandOutput(value, tuple(lines), _failure(subject, counts))


def _failure(subject: str, counts: Counter[str]) -> str | None:
    if counts["bad"]:
        return f"{subject}: {counts['bad']} {'build is' if counts['bad'] == 1 else 'builds are'} not as published or locked"
    if counts["unknown"]:
        return f"{subject}: {counts['unknown']} {'build' if counts['unknown'] == 1 else 'builds'} cannot be checked"
    if not (counts["good"] or counts["partly"]):
        return f"{subject}: nothing is there to be checked; `fxkernels download` fetches it"
    return None


def _checked(subject: str, version: int | None, revision: str | None) -> list[BuildStatus]:

    path = Path(subject)
    if (version, revision) != (None, None) and (path.is_file() or not is_repo_id(subject)):
        raise click.UsageError("--version and --revision belong to a repository, and this is a file or directory")
    if path.is_file():
        return verify_lock(read_lock(path))
    if not is_repo_id(subject):
        if not path.is_dir():
            raise click.UsageError(f"{subject} is no lock file, no directory, and no repository such as acme/norms")
        return verify_directory(path)
    cached = CachedRepository.of(subject)
    if (version, revision) == (None, None):
        return [build for commit in cached.commits() for build in verify_cached(subject, commit)]
    commit = cached.commit_of(RepositoryRequest(subject, version=version, revision=revision).name)
    return verify_cached(subject, commit) if commit is not None else []
