"""The cache directory of fxkernels, and its records: small JSON files that processes share.

A record is replaced as a whole or not at all, so a reader sees the old one or the new one. A record that cannot be read counts as missing
and is made again. A program that can write to this directory can forge a record, as it can change the code in the Hub's cache beside it.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def cache_directory() -> Path:
    """Return the directory: ``FXKERNELS_CACHE``, else ``fxkernels`` in the Hugging Face home (``HF_HOME``). It may not exist yet."""
    own = os.environ.get("FXKERNELS_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    from huggingface_hub import constants  # not at the top: importing fxkernels loads no client

    return Path(constants.HF_HOME).absolute() / "fxkernels"


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the record at `path`; None if there is none or it is no JSON object."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record, replacing an older one.

    Raises:
        OSError: If it cannot be written; what was there before is still there then.
    """
    write_atomically(path, json.dumps(record, indent=2, sort_keys=True) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file, completely or not at all. Missing parent folders are made.

    Raises:
        OSError: If it cannot be written; what was there before is still there then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files can be read by their owner only, and caches are shared.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
