"""`fxkernels verify`: checks whether the files in the cache are the locked or published ones."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import click

from ..hub import BuildStatus, CachedRepository, RepositoryRequest, is_repo_id, read_lock, verify_cached, verify_directory, verify_lock
from .output import CommandOutput, paragraph, prints_output, request_options

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
