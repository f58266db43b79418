"""`fxkernels download`: a kernel repository into the cache, so that it can be used offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .hub_command import Answer, answering, paragraph, size, state_options, target_of, target_option, trust_option

if TYPE_CHECKING:
    from ..hub.builds.kernel_dependency import KernelDependency
    from ..hub.snapshot import Snapshot
    from ..target import Target


@click.command(short_help="Download a kernel repository into the cache.")
@click.argument("repo_id", metavar="[REPO]", required=False)
@state_options
@click.option("--lockfile", type=click.Path(path_type=Path), metavar="FILE", help="Download everything that a lock file has, instead.")
@target_option
@click.option("--all-variants", is_flag=True, help="All builds instead of the one that fits the target.")
@trust_option
@answering
def download(
    repo_id: str | None,
    version: int | None,
    revision: str | None,
    lockfile: Path | None,
    target: str | None,
    all_variants: bool,
    trusted: tuple[str, ...],
) -> Answer:
    """Download a kernel repository and what it depends on, check the files, and record that its publisher is trusted.

    Afterwards the kernel can be loaded with HF_HUB_OFFLINE=1. Nothing is run. What is in the cache already is not fetched again.

    \b
    Examples:
      fxkernels download kernels-community/activation --version 1
      fxkernels download acme/norms --revision main --all-variants
      fxkernels download acme/norms --version 1 --for "cuda:sm90 cu130"
      fxkernels download --lockfile fxkernels.lock
    """
    from ..hub.builds.kernel_dependency import KernelDependency

    if all_variants and target is not None:
        raise click.UsageError("--all-variants and --for contradict each other")
    wanted = None if all_variants else target_of(target)
    if lockfile is not None:
        if repo_id is not None or version is not None or revision is not None:
            raise click.UsageError("--lockfile says what to download; give no REPO, --version or --revision with it")
        return _answer(_locked(lockfile, wanted, trusted))
    if repo_id is None:
        raise click.UsageError("give a REPO such as acme/norms, or --lockfile")
    request = KernelDependency(repo_id, version=version, revision=revision)
    return _answer(_with_dependencies(request, wanted, trusted))


def _with_dependencies(request: KernelDependency, target: Target | None, trusted: Sequence[str]) -> list[dict[str, Any]]:
    from ..hub.remote.download import HubSnapshot
    from ..hub.remote.resolve import resolve
    from ..hub.remote.trust import require_trust

    found: list[dict[str, Any]] = []
    seen: set[KernelDependency] = set()
    waiting = [request]
    while waiting:
        request = waiting.pop(0)
        if request in seen:
            continue
        seen.add(request)
        commit = resolve(request.repo_id, version=request.version, revision=request.revision)
        require_trust(request.repo_id, commit, trusted)
        builds, dependencies = _fetched(HubSnapshot(request.repo_id, commit), target)
        found += builds
        waiting += dependencies
    return found


def _locked(lockfile: Path, target: Target | None, trusted: Sequence[str]) -> list[dict[str, Any]]:
    from ..hub.locked_repository import open_locked
    from ..hub.locks.lock_file import read_lock

    lock = read_lock(lockfile)
    # For a target only what its builds depend on; the lock of the `kernels` package does not say what was asked for.
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


def _fetched(snapshot: Snapshot, target: Target | None) -> tuple[list[dict[str, Any]], list[KernelDependency]]:
    """Download and check the builds of a repository, the one that fits or all; return them, and what they depend on."""
    from ..hub.loading import choose_build

    variants = snapshot.variants() if target is None else (choose_build(snapshot, target)[0],)
    builds: list[dict[str, Any]] = []
    dependencies: list[KernelDependency] = []
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


def _answer(builds: list[dict[str, Any]]) -> Answer:
    lines: list[str] = []
    for build in builds:
        text = f"{build['repository']}@{build['commit'][:7]} {build['variant']}: {build['files']} files, {size(build['bytes'])}"
        lines += [*paragraph(text, "  ", ""), f"  {build['path']}"]
    return Answer({"builds": builds}, tuple(lines))
