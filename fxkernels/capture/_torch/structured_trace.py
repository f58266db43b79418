"""TORCH_TRACE: the log that torch.compile writes for `tlparse`."""

from __future__ import annotations

from collections.abc import Callable

from torch._logging._internal import trace_structured


def trace_artifact(name: str, encoding: str, content: Callable[[], str]) -> None:
    """Hand a text to TORCH_TRACE, which files it under the compilation that is going on.

    Nothing is computed where no trace is written; torch finds that out at its first event, which Dynamo's own is (torch 2.11, 2.13, 2.14).

    Args:
        name: Name of the file that tlparse makes of it.
        encoding: ``"string"`` or ``"json"``.
        content: Returns the text, with line breaks: the log's readers do not like long lines.
    """
    # Outside of a compilation there is no id to file it under; it is written all the same then.
    trace_structured("artifact", metadata_fn=lambda: {"name": name, "encoding": encoding}, payload_fn=content, expect_trace_id=False)
