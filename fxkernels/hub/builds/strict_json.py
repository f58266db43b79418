"""JSON that others have written, read without guessing: one meaning per key, numbers that are numbers, and a limit on size."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any, NoReturn


def read_limited(path: Path, limit: int) -> bytes:
    """Return the content of a file of at most `limit` bytes.

    Raises:
        FileNotFoundError: If there is none.
        OSError: If it cannot be read.
        ValueError: If it is larger, or is no regular file: reading a pipe or a device might never end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it is larger than {limit:,} bytes, more than any file of its kind needs")
    return content


def parse_object(content: bytes) -> dict[str, Any]:
    """Return the JSON object that `content` holds.

    Raises:
        ValueError: If it is no JSON, holds something else than an object, has a key twice in one object (parsers differ on which one
            counts, so what was reviewed need not be what is used), has a number that JSON does not have, or is nested absurdly deeply.
    """
    try:
        value = json.loads(content, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"it holds a JSON {type(value).__name__}, it must hold an object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {key!r} stands in one object twice")
        content[key] = value
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
