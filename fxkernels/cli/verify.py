"""`fxkernels verify`: whether the files in the cache are those that were locked or published."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .hub_command import Answer, answering, paragraph, state_options

if TYPE_CHECKING:
    from ..hub.integrity.verification import Verdict

_WORDS = {"good": "good", "bad": "BAD", "partly": "partly", "absent": "absent", "unknown": "UNKNOWN"}


@click.command(short_help="Check cached kernels against a lock file or the Hub.")
@click.argument("subject", metavar="LOCKFILE|REPO|DIRECTORY")
@state_options
@answering
def verify(subject: str, version: int | None, revision: str | None) -> Answer:
    """Check files in the cache: against a lock file, or, for a repository, against what the Hub listed when they were downloaded and the
    digests in their metadata. A directory in Hub layout is checked against the digests in its metadata.

    A file of the name is taken for a lock file, then org/name for a repository in the cache (all commits of it, or one), and everything
    else for a directory. Nothing is downloaded and nothing is run.

    \b
    The exit code is 1 if
      a file is changed, or does not belong there (BAD)
      there is nothing to check a build against (UNKNOWN)
      nothing was there to be checked

    \b
    Examples:
      fxkernels verify fxkernels.lock
      fxkernels verify kernels-community/activation --version 1
      fxkernels verify ./my-kernel
    """
    verdicts = _verdicts(subject, version, revision)
    lines: list[str] = []
    for verdict in verdicts:
        commit = f"@{verdict.commit[:7]}" if verdict.commit is not None else ""
        lines += paragraph(f"{_WORDS[verdict.status]:<8}{verdict.repository}{commit} {verdict.variant or ''}".rstrip(), " " * 8, "")
        lines += paragraph(verdict.message, " " * 8)
    counts: Counter[str] = Counter(verdict.status for verdict in verdicts)
    builds = ", ".join(f"{counts[status]} {word}" for status, word in _WORDS.items() if counts[status])
    lines.append(f"{len(verdicts)} {'build' if len(verdicts) == 1 else 'builds'}: {builds}" if verdicts else "no builds")
    value = {"subject": subject, "builds": [dataclasses.asdict(verdict) for verdict in verdicts]}
    return Answer(value, tuple(lines), _failure(subject, counts))


def _failure(subject: str, counts: Counter[str]) -> str | None:
    if counts["bad"]:
        return f"{subject}: {counts['bad']} {'build is' if counts['bad'] == 1 else 'builds are'} not as published or locked"
    if counts["unknown"]:
        return f"{subject}: {counts['unknown']} {'build' if counts['unknown'] == 1 else 'builds'} cannot be checked"
    if not (counts["good"] or counts["partly"]):
        return f"{subject}: nothing is there to be checked; `fxkernels download` fetches it"
    return None


def _verdicts(subject: str, version: int | None, revision: str | None) -> list[Verdict]:
    from ..hub.builds.kernel_dependency import KernelDependency, is_repo_id
    from ..hub.integrity.verification import verify_cached, verify_directory, verify_lock
    from ..hub.locks.lock_file import read_lock
    from ..hub.remote.cache import CachedRepository

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
        return [verdict for commit in cached.commits() for verdict in verify_cached(subject, commit)]
    KernelDependency(subject, version=version, revision=revision)  # checks that it is one of the two
    commit = cached.commit_of(revision if revision is not None else f"v{version}")
    return verify_cached(subject, commit) if commit is not None else []
