"""Local overrides: directories of the user that replace repositories on the Hub, for work on a kernel.

``FXKERNELS_LOCAL="acme/norms=/home/me/norms,acme/rotary=../rotary"`` is the user's own declaration, so neither trust nor digests are
checked. It is never silent: it is logged, and every report names it.
"""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path

from ..errors import RepositoryError

VARIABLE = "FXKERNELS_LOCAL"

_log = logging.getLogger("fxkernels")


def local_override(repo_id: str) -> Path | None:
    """Return the directory that replaces a repository; None if there is none.

    Raises:
        ValueError: If ``FXKERNELS_LOCAL`` is malformed, also in an entry about another repository.
        RepositoryError: With code ``load_error``, if the directory does not exist.
    """
    value = os.environ.get(VARIABLE, "")
    if not value.strip():
        return None
    path = _parsed(value).get(repo_id)
    if path is None:
        return None
    directory = Path(path).expanduser().absolute()
    if not directory.is_dir():
        raise RepositoryError("load_error", f"{VARIABLE} replaces {repo_id} with {directory}, which is not a directory")
    _warn_once(repo_id, directory)
    return directory


@functools.lru_cache(maxsize=16)
def _parsed(value: str) -> dict[str, str]:
    paths: dict[str, str] = {}
    for entry in value.split(","):
        repo_id, equals, path = (part.strip() for part in entry.partition("="))
        if not entry.strip():
            continue
        if not (equals and path and repo_id.count("/") == 1 and all(repo_id.split("/"))):
            raise ValueError(f"{VARIABLE} has {entry.strip()!r}; it has the form organization/name=path, several with commas between them")
        if repo_id in paths:
            raise ValueError(f"{VARIABLE} has two paths for {repo_id}: {paths[repo_id]} and {path}")
        paths[repo_id] = path
    return paths


@functools.cache
def _warn_once(repo_id: str, directory: Path) -> None:
    _log.warning("%s is taken from %s, because %s says so: neither trust nor digests are checked", repo_id, directory, VARIABLE)
