"""`fxkernels versions`: the versions of a kernel repository and their commits."""

from __future__ import annotations

import click

from ..hub import CachedRepository, available_versions
from .output import CommandOutput, prints_output


@click.command(short_help="List the versions of a kernel repository.")
@click.argument("repo_id", metavar="REPO")
@prints_output
def versions(repo_id: str) -> CommandOutput:
    """List the versions of a kernel repository with their current commits.

    With HF_HUB_OFFLINE=1, the versions that were resolved before. The exit code is 1 if there are none.

    \b
    Examples:
      fxkernels versions kernels-community/activation
      fxkernels versions kernels-community/activation --json
    """

    found = available_versions(repo_id)
    cached = set(CachedRepository.of(repo_id).commits())
    lines = [f"{repo_id}"]
    lines += [f"  version {version:<4} {commit}{'  in the cache' if commit in cached else ''}" for version, commit in found.items()]
    entries = [{"version": version, "commit": commit, "cached": commit in cached} for version, commit in found.items()]
    value = {"repository": repo_id, "versions": entries}
    if not found:
        return CommandOutput(value, (), f"{repo_id} has no versions (branches v1, v2 ...); name a branch, tag or commit with --revision")
    return CommandOutput(value, tuple(lines))
