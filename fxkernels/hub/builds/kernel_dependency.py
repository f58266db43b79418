"""A kernel repository that another kernel asks for while it is imported: which one, and in which state."""

from __future__ import annotations

import re
from dataclasses import dataclass

# What the Hub allows, and in particular nothing that leads out of a cache's folder: these names become parts of paths.
_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO_ID = re.compile(rf"{_NAME}/{_NAME}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,254}")


@dataclass(frozen=True, slots=True)
class KernelDependency:
    """A kernel repository in the state that a dependant wants.

    Args:
        repo_id: The repository, e.g. ``"acme/norms"``.
        version: A version of its interface: the newest commit of the branch ``v<version>``. Either this or `revision` is given.
        revision: A commit, tag or branch.

    Raises:
        ValueError: If not exactly one of the two is given, or one of the names cannot be that of a repository or revision.

    Example:
        >>> str(KernelDependency("acme/norms", version=1))
        'acme/norms@v1'
    """

    repo_id: str
    version: int | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if not is_repo_id(self.repo_id):
            raise ValueError(f"{self.repo_id!r} is no repository on the Hub; it reads organisation/name, e.g. 'acme/norms'")
        if (self.version is None) == (self.revision is None):
            given = "neither a version nor a revision" if self.version is None else f"version {self.version} and revision {self.revision!r}"
            raise ValueError(f"{self.repo_id} has {given}; give one of the two")
        if self.version is not None and (not isinstance(self.version, int) or isinstance(self.version, bool) or self.version < 0):
            raise ValueError(
                f"{self.repo_id} has the version {self.version!r}; versions are integers from 0 on, anything else is a revision"
            )
        if self.revision is not None and not is_revision(self.revision):
            raise ValueError(f"{self.repo_id} has the revision {self.revision!r}, which is no name of a commit, tag or branch")

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision if self.revision is not None else f'v{self.version}'}"


def is_repo_id(name: str) -> bool:
    """Return whether `name` can be that of a repository on the Hub, ``organisation/name``."""
    return _REPO_ID.fullmatch(name) is not None and "--" not in name and ".." not in name


def is_revision(name: str) -> bool:
    """Return whether `name` can be that of a commit, tag or branch: git's rules, as far as they keep a path inside its folder."""
    if _REVISION.fullmatch(name) is None:
        return False
    return all(part and not part.startswith(".") and not part.endswith((".", ".lock")) for part in name.split("/")) and ".." not in name
