"""`fxkernels lock`: the commits and digests of a project's kernels, written into a lock file."""

from __future__ import annotations

from pathlib import Path

import click

from ..hub import LOCK_FILE, Lock, RepositoryRequest, lock_kernels, read_lock, required_kernels, write_lock
from .output import CommandOutput, paragraph, prints_output, trust_option


@click.command(short_help="Write a lock file for the kernels of a project.")
@click.argument("project", type=click.Path(path_type=Path), default=".", metavar="[PROJECT]")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="The lock file.  [default: fxkernels.lock in PROJECT]")
@click.option("--check", is_flag=True, help="Write nothing; fail if the lock file is not that of pyproject.toml. Needs no network.")
@trust_option
@prints_output
def lock(project: Path, output: Path | None, check: bool, trusted: tuple[str, ...]) -> CommandOutput:
    """Resolve the kernels that pyproject.toml lists under [tool.fxkernels.kernels], and their dependencies, to commits, and write these
    with the SHA-256 of every file of every build into fxkernels.lock.

    PROJECT is a directory with a pyproject.toml, or that file. Every kernel is resolved anew. Commit the lock file; load through it with
    LockedLayerRepository or kernelize(model, lockfile="fxkernels.lock").

    \b
    In pyproject.toml:
      [tool.fxkernels.kernels]
      "kernels-community/activation" = { version = 1 }
      "acme/norms" = { revision = "main" }

    \b
    Examples:
      fxkernels lock
      fxkernels lock path/to/project --trust acme/norms
      fxkernels lock --check
    """
    from ..errors import RepositoryError

    pyproject = project / "pyproject.toml" if project.is_dir() else project
    if not pyproject.is_file():
        raise click.UsageError(f"there is no {pyproject}")
    path = output or pyproject.parent / LOCK_FILE
    requires = required_kernels(pyproject)
    if check:
        return _checked(read_lock(path), requires, pyproject)
    replaced: list[str] = []
    try:
        before = read_lock(path) if path.exists() else None
    except RepositoryError as error:  # with the marks of a merge in it, for example
        before = None
        replaced.append(f"the lock file that was there is replaced: {error}")
    after, left_out = lock_kernels(requires, str(path), trusted)
    write_lock(after, path)
    notes = replaced + left_out
    changes = _changes(before, after)
    lines = [f"{path}: {len(after.repositories)} {'repository' if len(after.repositories) == 1 else 'repositories'}"]
    lines += [f"  {change}" for change in changes or ["nothing has changed"]]
    for note in notes:
        lines += paragraph(f"Note: {note}", "  ", "")
    entries = [{"repository": entry.repo_id, "name": str(entry), "commit": entry.commit} for entry in after.repositories]
    return CommandOutput({"lockfile": str(path), "repositories": entries, "changes": changes, "notes": notes}, tuple(lines))


def _checked(lock: Lock, requires: tuple[RepositoryRequest, ...], pyproject: Path) -> CommandOutput:
    wanted, locked = {str(request) for request in requires}, {str(request) for request in lock.requires}
    missing, more = sorted(wanted - locked), sorted(locked - wanted)
    value = {"lockfile": lock.where, "missing": missing, "extra": more}
    if not missing and not more:
        return CommandOutput(value, (f"{lock.where} is the lock of {pyproject}",))
    lines = [f"{name} is not in the lock file" for name in missing] + [f"{name} is in the lock file only" for name in more]
    return CommandOutput(value, tuple(lines), f"{lock.where} is not the lock of {pyproject}; run `fxkernels lock`")


def _changes(before: Lock | None, after: Lock) -> list[str]:
    old = {str(entry): entry.commit for entry in before.repositories} if before is not None else {}
    new = {str(entry): entry.commit for entry in after.repositories}
    found = []
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            found.append(f"+ {name} {new[name][:7]}")
        elif name not in new:
            found.append(f"- {name} {old[name][:7]}")
        elif old[name] != new[name]:
            found.append(f"* {name} {old[name][:7]} -> {new[name][:7]}")
    return found
