"""Whose code may run: publishers that the Hub calls trusted, and repositories that the user allows.

The Hub says whether an organization is a *trusted kernel publisher*. Its answer is recorded with the commit in the cache directory, so that
a commit that was trusted once can be used offline, and without a request. What the user allows is not recorded: it holds for one call.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...cache_directory import cache_directory, read_record, write_record
from ...errors import RepositoryError
from ..request import FULL_COMMIT, check_repo_id, is_repo_id
from . import client

_log = logging.getLogger("fxkernels")

_FORMAT = 1


def require_trust(repo_id: str, commit: str, trust_remote_code: bool | Sequence[str]) -> None:
    """Return if the code of a repository at a commit may run.

    Args:
        repo_id: The repository, as ``organization/name``.
        commit: The full commit.
        trust_remote_code: True for any repository, or the ids of those that are allowed besides the ones of trusted publishers.

    Raises:
        RepositoryError: With code ``untrusted``, if its publisher is not trusted or that cannot be found out; it says how to allow it.
        ValueError, TypeError: If `trust_remote_code`, the repository's id or the commit is not valid.
    """
    _check_names(repo_id, commit)
    if is_allowed(repo_id, trust_remote_code):
        return
    reason = why_not_trusted(repo_id, commit)
    if reason is not None:
        allow = f"Allow it with trust_remote_code=[{repo_id!r}] if you trust its code."
        raise RepositoryError("untrusted", f"{repo_id}@{commit[:7]} is not run: {reason}\n  {allow}")


def why_not_trusted(repo_id: str, commit: str) -> str | None:
    """Return why the publisher of a repository is not trusted, as a phrase; None if it is, or was when the commit was recorded.

    Raises:
        ValueError: If the repository's id or the commit is not valid.
    """
    _check_names(repo_id, commit)
    path, record = _record_path(repo_id, commit), _record(repo_id, commit)
    if read_record(path) == record:
        return None
    reason = _ask_hub(repo_id.split("/")[0])
    if reason is None:
        try:
            write_record(path, record)
        except OSError as error:
            _log.warning("that the publisher of %s is trusted cannot be recorded (%s), so it will be refused offline", repo_id, error)
    return reason


def is_allowed(repo_id: str, trust_remote_code: bool | Sequence[str]) -> bool:
    """Return whether the user allows the repository, regardless of its publisher.

    Raises:
        TypeError: If `trust_remote_code` is neither a truth value nor a sequence of repository ids.
    """
    if isinstance(trust_remote_code, bool):
        return trust_remote_code
    # A string is a sequence too, and `in` would find "acme/norm" in "acme/norms".
    if isinstance(trust_remote_code, str) or not isinstance(trust_remote_code, Sequence):
        raise TypeError(f"trust_remote_code is True, False or a list of repository ids such as ['acme/norms'], not {trust_remote_code!r}")
    for name in trust_remote_code:
        if not isinstance(name, str) or not is_repo_id(name):
            raise TypeError(f"trust_remote_code lists repository ids such as 'acme/norms', and {name!r} is none")
    return repo_id in trust_remote_code


def _ask_hub(publisher: str) -> str | None:
    """Return why an organization is no trusted publisher on the Hub now; None if it is one."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    unknown = f"whether {publisher} is a trusted publisher"
    if client.requests_forbidden():
        raise RepositoryError("offline", f"{unknown} was not recorded with this commit, and {client.why_offline()}")
    if client.offline():
        return f"{unknown} was not recorded with this commit, and HF_HUB_OFFLINE forbids to ask; load it once with the network"
    try:
        (overview,) = client.get(f"organizations/{publisher}/overview")
    except Exception as error:
        # The client raises its own errors and those of its HTTP library. After any of them the publisher counts as not trusted.
        if isinstance(error, HfHubHTTPError) and error.response.status_code == 404:
            return f"{publisher} is not an organization on {constants.ENDPOINT}, and users are no trusted publishers"
        return str(client.hub_error(error, f"{unknown} cannot be found out"))
    if not isinstance(overview, dict):
        return f"{unknown} cannot be found out: {constants.ENDPOINT} answered with a JSON {type(overview).__name__}"
    name = overview.get("name", publisher)
    if not isinstance(name, str) or name.casefold() != publisher.casefold():
        # A renamed organization: its old name is free now, and another publisher may take it.
        return f"{publisher} is called {name!r} now on {constants.ENDPOINT}; use the repository's new id"
    if overview.get("trustedKernelPublisher") is not True:
        return f"{publisher} is not a trusted publisher on {constants.ENDPOINT}"
    return None


def _check_names(repo_id: str, commit: str) -> None:
    # Both become parts of a path here.
    check_repo_id(repo_id)
    if FULL_COMMIT.fullmatch(commit) is None:
        raise ValueError(f"trust in {repo_id} is a matter of one commit, and {commit!r} is not a full commit (40 hexadecimal digits)")


def _record_path(repo_id: str, commit: str) -> Path:
    return cache_directory() / "trust" / repo_id.replace("/", "--") / f"{commit}.json"


def _record(repo_id: str, commit: str) -> dict[str, Any]:
    from huggingface_hub import constants

    # With the endpoint: a mirror's or a test server's answer is not the Hub's.
    return {"format": _FORMAT, "repository": repo_id, "commit": commit, "endpoint": constants.ENDPOINT, "trusted_publisher": True}
