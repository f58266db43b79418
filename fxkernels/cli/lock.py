"""`fxkernels lock`: the commits and digests of a project's kernels, written into a lock file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .hub_command import Answer, answering, paragraph, trust_option

if TYPE_CHECKING:
    from ..hub.builds.kernel_dependency import KernelDependency
    from ..hub.locks.lock import Lock


@click.command(short_help="Write a lock file for the kernels of a project.")
@click.argument("project", type=click.Path(path_type=Path), default=".", metavar="[PROJECT]")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="The lock file.  [default: fxkernels.lock in PROJECT]")
@click.option("--check", is_flag=True, help="Write nothing; fail if the lock file is not that of pyproject.toml. Needs no network.")
@trust_option
@answering
def lock(project: Path, output: Path | None, check: bool, trusted: tuple[str, ...]) -> Answer:
    """Resolve the kernels that pyproject.toml names under [tool.fxkernels.kernels], and what they depend on, to commits, and write these
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
    from ..hub.locks.lock_file import FILE_NAME, read_lock, write_lock
    from ..hub.locks.locking import Locking, required_kernels

    pyproject = project / "pyproject.toml" if project.is_dir() else project
    if not pyproject.is_file():
        raise click.UsageError(f"there is no {pyproject}")
    path = output or pyproject.parent / FILE_NAME
    requires = required_kernels(pyproject)
    if check:
        return _checked(read_lock(path), requires, pyproject)
    locking = Locking(trusted)
    try:
        before = read_lock(path) if path.exists() else None
    except RepositoryError as error:  # with the marks of a merge in it, for example
        before = None
        locking.notes.append(f"the lock file that was there is replaced: {error}")
    after = locking.lock(requires, str(path))
    write_lock(after, path)
    changes = _changes(before, after)
    lines = [f"{path}: {len(after.repositories)} {'repository' if len(after.repositories) == 1 else 'repositories'}"]
    lines += [f"  {change}" for change in changes or ["nothing has changed"]]
    for note in locking.notes:
        lines += paragraph(f"Note: {note}", "  ", "")
    entries = [{"repository": entry.repo_id, "name": str(entry), "commit": entry.commit} for entry in after.repositories]
    return Answer({"lockfile": str(path), "repositories": entries, "changes": changes, "notes": locking.notes}, tuple(lines))


def _checked(lock: Lock, requires: tuple[KernelDependency, ...], pyproject: Path) -> Answer:
    wanted, locked = {str(request) for request in requires}, {str(request) for request in lock.requires}
    missing, more = sorted(wanted - locked), sorted(locked - wanted)
    value = {"lockfile": lock.where, "missing": missing, "extra": more}
    if not missing and not more:
        return Answer(value, (f"{lock.where} is the lock of {pyproject}",))
    lines = [f"{name} is not in the lock file" for name in missing] + [f"{name} is in the lock file only" for name in more]
    return Answer(value, tuple(lines), f"{lock.where} is not the lock of {pyproject}; run `fxkernels lock`")


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
