"""Where a call is found in a page: the part of the address after the ``#``."""

from __future__ import annotations

from urllib.parse import quote

from .model import CallReport


def anchor_of(call: CallReport) -> str:
    """Return the id of a call's element, e.g. ``call-model.layers.3.norm-0``. Characters that an id should not have are percent-encoded.

    A link to it quotes the id once more: see `link_to`.
    """
    return f"call-{quote(call.path, safe='')}-{call.index}"


def link_to(call: CallReport) -> str:
    """Return the address of a call within its page, e.g. ``#call-model.layers.3.norm-0``."""
    return f"#{quote(anchor_of(call))}"
