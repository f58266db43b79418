"""Requests that older releases of huggingface_hub give up at once are tried again here, as often as newer ones do it.

Before 1.21 that is a request whose connection is cut. Before 1.27 it is the next one after a refused connection: the client is closed
then, and the closed one goes on. This file can go when the oldest release that is supported is 1.27.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from packaging.version import Version

T = TypeVar("T")

_log = logging.getLogger("fxkernels")

_WAITS = (1, 2, 4, 8, 8)
"""Seconds before each further try, as `http_backoff` of the client waits."""


def tried_again(request: Callable[[], T]) -> T:
    """Return what a request returns; it is made again where this release of the client should have done so."""
    for seconds in _WAITS:
        try:
            return request()
        except Exception as error:  # those of the client's HTTP library, which is another one since 2.0
            if not (is_closed(error) or (_is_cut(error) and _cuts_are_final())):
                raise
            _log.info("a request to the Hub has failed and is made again in %s s: %s", seconds, error)
        time.sleep(seconds)
    return request()


def is_closed(error: BaseException) -> bool:
    """Return whether a request was made with a client that was closed after an earlier one had failed."""
    return isinstance(error, RuntimeError) and "client has been closed" in str(error)


def _is_cut(error: BaseException) -> bool:
    return type(error).__name__ == "RemoteProtocolError"


@functools.cache
def _cuts_are_final() -> bool:
    import huggingface_hub

    return Version(huggingface_hub.__version__) < Version("1.21")
