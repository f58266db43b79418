"""The one door to huggingface_hub: requests with the client's retries and tokens, and its errors as errors of this library.

The client is imported at the first request: a kernel that is in the cache is loaded without it.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ...errors import RepositoryError
from .retries import is_closed, tried_again

KIND = "kernel"
# HTTP status codes of a Hub that is busy or down: a later request may succeed.
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


_no_requests: ContextVar[bool] = ContextVar("fxkernels_no_requests", default=False)


@contextmanager
def no_requests() -> Iterator[None]:
    """Forbid every request in this thread or task, as ``HF_HUB_OFFLINE`` does. Nothing is remembered for later then."""
    token = _no_requests.set(True)
    try:
        yield
    finally:
        _no_requests.reset(token)


def requests_forbidden() -> bool:
    """Return whether `no_requests` is in force."""
    return _no_requests.get()


def offline() -> bool:
    """Return whether ``HF_HUB_OFFLINE`` or `no_requests` forbids every request."""
    from huggingface_hub import constants

    return _no_requests.get() or constants.HF_HUB_OFFLINE


def why_offline() -> str:
    """Return why requests are forbidden, as a phrase of an error."""
    return "nothing is fetched here" if _no_requests.get() else "HF_HUB_OFFLINE is set"


def get(path: str, *, retry: bool = True, query: Mapping[str, str] | None = None) -> list[Any]:
    """Return the JSON pages at ``/api/<path>`` of the Hub, with the client's token and retries.

    `HfApi` is not used: its requests for the state of a repository have no time limit (huggingface_hub 2.4), so a stalled server would
    block them for ever.

    Args:
        path: Below ``/api/``, quoted.
        retry: Whether to wait and try again, as long as the client does, when the Hub cannot be reached or is busy.
        query: The query's parameters.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    url: str | None = f"{constants.ENDPOINT}/api/{path}"
    pages = []
    options: dict[str, Any] = {"params": dict(query)} if query else {}
    while url is not None:
        request = functools.partial(
            http_backoff,
            "GET",
            url,
            max_retries=5 if retry else 0,
            headers=build_hf_headers(library_name="fxkernels"),
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
            follow_redirects=True,
            **options,
        )
        response = tried_again(request) if retry else request()
        hf_raise_for_status(response)
        pages.append(response.json())
        url, options = response.links.get("next", {}).get("url"), {}
    return pages


def tree(repo_id: str, commit: str, folder: str) -> list[Any]:
    """Return the entries of a folder of a repository and of all folders below it; an empty list if there is no such folder."""
    from huggingface_hub import errors

    try:
        pages = get(f"kernels/{repo_id}/tree/{commit}/{folder}", query={"recursive": "true"})
    except errors.EntryNotFoundError:
        return []
    return [entry for page in pages for entry in page]


def known_listing(repo_id: str, commit: str) -> dict[str, int] | None:
    """Return path and size of the files of a commit that the client itself has downloaded; releases before 1.23 keep no such list."""
    try:
        from huggingface_hub import get_cached_repo_tree
    except ImportError:
        return None
    try:
        return {file.path: file.size for file in get_cached_repo_tree(repo_id, repo_type=KIND, revision=commit)}
    except Exception:  # CachedRepoTreeNotFoundError, which the same releases lack
        return None


@contextmanager
def hub_errors(repo_id: str, what: str) -> Iterator[None]:
    """Turn the client's errors into a `RepositoryError` that says what failed for which repository, why, and what to do.

    Its code is ``offline`` where a later try can succeed (no network, the Hub down or busy, a connection cut), and ``load_error`` where it
    cannot (not there, not allowed, no space on the disk).
    """
    try:
        yield
    except RepositoryError:
        raise
    except Exception as error:  # the client raises its own errors, those of its HTTP library (which changed in 2.0), and OSErrors
        raise hub_error(error, f"{repo_id}: {what} failed") from error


def hub_error(error: BaseException, what: str) -> RepositoryError:
    """Return an error of the client as an error of this library."""
    from huggingface_hub import constants, errors

    cause = error.__cause__
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(cause, Exception):
        return hub_error(cause, what)
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return RepositoryError("offline", f"{what}: {why_offline()}, and it is not in the cache ({constants.HF_HUB_CACHE})")
    if isinstance(error, errors.HfHubHTTPError):
        return _http_error(error, what)
    if type(error).__module__.partition(".")[0] in ("httpx", "httpx2") or is_closed(error):
        said = "connections are refused" if is_closed(error) else f"{type(error).__name__}: {error}"
        reason = f"{constants.ENDPOINT} cannot be reached ({said})"
        return RepositoryError("offline", f"{what}: {reason}\n  Check the network, or HF_ENDPOINT; what was downloaded before is kept.")
    if isinstance(error, OSError) and error.errno is not None:
        return _disk_error(error, what)
    # No JSON, no ETag, another size than announced: a proxy answered instead of the Hub, or cut the answer short.
    first = (str(error).strip().splitlines() or [""])[0]
    return RepositoryError("offline", f"{what}: {constants.ENDPOINT} did not answer as a Hub does ({type(error).__name__}: {first})")


def is_transient(error: BaseException) -> bool:
    """Return whether the Hub could not be reached or was busy, in contrast to having refused."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code in _TRANSIENT
    return hub_error(error, "").code == "offline"


def _http_error(error: Any, what: str) -> RepositoryError:
    from huggingface_hub import constants, errors

    status = error.response.status_code
    said = f"the Hub answered {status}"
    token = "Log in with `hf auth login`, or set HF_TOKEN to a token that may read it."
    if isinstance(error, errors.GatedRepoError):
        return RepositoryError("load_error", f"{what}: {said}, access to it is restricted\n  Ask for access on its page. {token}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return RepositoryError("load_error", f"{what}: {said}, there is no such kernel repository, or it is private\n  {token}")
    if isinstance(error, errors.RevisionNotFoundError):
        return RepositoryError("load_error", f"{what}: {said}, it has no such version or revision")
    if isinstance(error, errors.EntryNotFoundError):
        return RepositoryError("load_error", f"{what}: {said}, there is no such file at this commit")
    if status in (401, 403):
        return RepositoryError("load_error", f"{what}: {said}, the token is missing, wrong or may not read it\n  {token}")
    if status in _TRANSIENT:
        again = "Too many requests; wait, or log in for a higher limit." if status == 429 else "Try again later."
        return RepositoryError("offline", f"{what}: {constants.ENDPOINT} answered {status}\n  {again} What was downloaded before is kept.")
    return RepositoryError("load_error", f"{what}: {said} ({error.server_message or error})")


def _disk_error(error: OSError, what: str) -> RepositoryError:
    from huggingface_hub import constants

    file = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        why = f"no space left on the disk{file}\n  Free some in"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        why = f"the cache cannot be written{file}\n  Fill it where it can be (`fxkernels download`), or set HF_HOME to another place than"
    else:
        why = f"{error.strerror or error}{file}\n  The cache is"
    return RepositoryError("load_error", f"{what}: {why} {constants.HF_HUB_CACHE}.")
