"""The name of a kernel repository in a state, such as ``acme/norms@v1``, and which names the Hub allows."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import RepositoryError
from .strict_json import JsonObject

FULL_COMMIT = re.compile(r"[0-9a-f]{40}")

# What the Hub allows. Nothing in them leads out of a folder: these names become parts of paths.
_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO_ID = re.compile(rf"{_NAME}/{_NAME}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,254}")


@dataclass(frozen=True, slots=True)
class RepositoryRequest:
    """A kernel repository in the state that a mapping, a project or another kernel asks for.

    Args:
        repo_id: The repository, e.g. ``"acme/norms"``.
        version: A version of its interface: the newest commit of the branch ``v<version>``. Either this or `revision` is given.
        revision: A commit, tag or branch.

    Raises:
        ValueError: If not exactly one of the two is given, or a name cannot be that of a repository or revision.

    Example:
        >>> str(RepositoryRequest("acme/norms", version=1))
        'acme/norms@v1'
    """

    repo_id: str
    version: int | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        check_repo_id(self.repo_id)
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
        return f"{self.repo_id}@{self.name}"

    @property
    def name(self) -> str:
        """The revision; for a version, the branch that has it."""
        return self.revision if self.revision is not None else f"v{self.version}"


def request_in(fields: JsonObject, repo_id: str) -> RepositoryRequest:
    """Return the request that the keys ``version`` and ``revision`` of a JSON object make.

    Raises:
        RepositoryError: With code ``load_error``, naming the file and the key.
    """
    version = fields.count("version") if fields.has("version") else None
    revision = fields.text("revision") if fields.has("revision") else None
    try:
        return RepositoryRequest(repo_id, version=version, revision=revision)
    except ValueError as error:
        raise RepositoryError("load_error", f"{fields.where}: key {fields.name!r} cannot be used: {error}") from None


def commit_in(fields: JsonObject, key: str) -> str:
    """Return the full commit under a key of a JSON object."""
    return fields.text(key, "a full commit, 40 hexadecimal digits", FULL_COMMIT)


def check_repo_id(name: str) -> None:
    """Raise a ValueError if `name` cannot be that of a repository on the Hub."""
    if not is_repo_id(name):
        raise ValueError(f"{name!r} is no repository on the Hub; its id has the form organization/name, e.g. 'acme/norms'")


def is_repo_id(name: str) -> bool:
    """Return whether `name` can be that of a repository on the Hub, ``organization/name``."""
    return _REPO_ID.fullmatch(name) is not None and "--" not in name and ".." not in name


def is_revision(name: str) -> bool:
    """Return whether `name` can be that of a commit, tag or branch: git's rules, as far as they keep a path inside its folder."""
    if _REVISION.fullmatch(name) is None:
        return False
    return all(part and not part.startswith(".") and not part.endswith((".", ".lock")) for part in name.split("/")) and ".." not in name
