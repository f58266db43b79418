"""The commit of a version, branch, tag or abbreviated commit: asked once per process, kept in the cache for offline runs."""

from __future__ import annotations

import logging
import re
import threading
from typing import Any
from urllib.parse import quote

from ...errors import RepositoryError
from ..request import FULL_COMMIT, RepositoryRequest
from . import client
from .cache import CachedRepository

_log = logging.getLogger("fxkernels")

_VERSION = re.compile(r"v(0|[1-9]\d*)")
# The commits that were resolved in this process, by endpoint, folder and name: all layers of a model must get one answer.
_RESOLVED: dict[tuple[str, CachedRepository, str], str] = {}
_LOCK = threading.Lock()


def resolve(request: RepositoryRequest) -> str:
    """Return the commit of a version or revision.

    A full commit is returned as it is, without a request. Everything else can move, so the Hub is asked, once per process, and the answer
    is written into the cache. If the Hub cannot be reached or is busy, its last answer is used, with a warning; a refusal is an error.
    Under ``HF_HUB_OFFLINE`` its last answer is used.

    Raises:
        RepositoryError: With code ``offline``, if the Hub cannot be asked and the cache does not know; with code ``load_error`` if there is
            no such repository or revision, or no access to it; with code ``untrusted`` if it has moved to another organization.
    """
    from huggingface_hub import constants

    name = request.name
    if FULL_COMMIT.fullmatch(name):
        return name
    repository = CachedRepository.of(request.repo_id)
    key = (constants.ENDPOINT, repository, name)
    with _LOCK:
        if key not in _RESOLVED and client.requests_forbidden():
            return _resolve(repository, name)
        if key not in _RESOLVED:
            _RESOLVED[key] = _resolve(repository, name)
        return _RESOLVED[key]


def available_versions(repo_id: str) -> dict[int, str]:
    """Return the commit of each version that a repository has; under ``HF_HUB_OFFLINE``, of those that were resolved before.

    Raises:
        RepositoryError: As `resolve`.
    """
    repository = CachedRepository.of(repo_id)
    if client.offline():
        names = repository.refs()
    else:
        with client.hub_errors(repo_id, "to list its versions"):
            (refs,) = client.get(f"kernels/{repo_id}/refs")
            names = {branch["name"]: branch["targetCommit"] for branch in refs["branches"]}
    versions = {int(match[1]): commit for name, commit in names.items() if (match := _VERSION.fullmatch(name))}
    return dict(sorted(versions.items()))


def forget_resolved() -> None:
    """Let the next `resolve` ask the Hub again, in a long-lived process."""
    with _LOCK:
        _RESOLVED.clear()


def _resolve(repository: CachedRepository, name: str) -> str:
    known = repository.commit_of(name)
    if client.offline():
        if known is None:
            raise _never_resolved(repository, name)
        return known
    try:
        # With a known commit there is no reason to wait for the Hub to recover.
        (info,) = client.get(f"kernels/{repository.repo_id}/revision/{quote(name, safe='')}", retry=known is None)
        commit = _commit_in(info)
    except Exception as error:  # the client's errors, see `client.hub_error`
        hub_error = client.hub_error(error, f"{repository.repo_id}: to find out which commit {name} is failed")
        if known is None or not client.is_transient(error):
            raise hub_error from error
        _log.warning("%s\n  Version %s as it was when last asked is used: %s", hub_error, name, known)
        return known
    _require_same_owner(repository.repo_id, info)
    try:
        repository.write_ref(name, commit)
    except OSError as error:
        _log.warning(
            "%s@%s is %s, which cannot be written into the cache (%s); offline, only the commit will be found",
            repository.repo_id,
            name,
            commit,
            error,
        )
    return commit


def _commit_in(info: Any) -> str:
    commit = info.get("sha") if isinstance(info, dict) else None
    if not isinstance(commit, str) or not FULL_COMMIT.fullmatch(commit):
        raise ValueError(f"the answer names no commit: {str(info)[:80]!r}")
    return commit


def _require_same_owner(repo_id: str, info: dict[str, Any]) -> None:
    """Raise if a renamed repository belongs to another organization now: the Hub finds it under its old name, but its publisher changed."""
    now = info.get("id")
    if not isinstance(now, str) or now.casefold() == repo_id.casefold():
        return
    if now.partition("/")[0].casefold() != repo_id.partition("/")[0].casefold():
        raise RepositoryError(
            "untrusted",
            f"{repo_id} has moved to another organization: it is {now} now\n  Write repo_id={now!r} if you trust that one's code.",
        )
    _log.warning("%s was renamed to %s; it is found under its old name until another repository takes that name", repo_id, now)


def _never_resolved(repository: CachedRepository, name: str) -> RepositoryError:
    others = ", ".join([*repository.refs(), *(commit[:7] for commit in repository.commits())]) or "nothing"
    return RepositoryError(
        "offline",
        f"{repository.repo_id}@{name} is not in the cache ({repository.folder}), and {client.why_offline()}\n"
        f"  Of this repository it has: {others}. Load it once with the network, or name a commit that is there.",
    )
