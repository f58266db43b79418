"""Verdicts on disk: one small JSON file for each key, so that a kernel is probed once, not once for each process.

The files hold no dates and no paths, so a cluster can be given those of one machine (``admitted/`` in the cache directory). A file that is
damaged or says something else than its name is ignored, and written anew when the kernel has been probed again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..cache_directory import cache_directory, read_record, write_record
from .evidence import Verdict
from .key import FORMAT
from .request import Request

_log = logging.getLogger("fxkernels")


@dataclass(frozen=True, slots=True)
class Record:
    """One verdict.

    Args:
        key: Its key.
        kernel: Which kernel it is about.
        inputs: What the call's inputs are, one line for each.
        mode: ``"inference"`` or ``"training"``, and whether a gradient was looked at.
        torch: The version of torch.
        verdict: The verdict.
    """

    key: str
    kernel: str
    inputs: tuple[str, ...]
    mode: str
    torch: str
    verdict: Verdict

    @staticmethod
    def of(key: str, request: Request, verdict: Verdict) -> Record:
        """Return the record of a verdict."""
        mode = f"{'training' if request.training else 'inference'}{', with gradient' if request.gradient else ''}"
        inputs = tuple(f"{name}: {value}" for name, value in zip(request.names, request.cases[0], strict=True))
        return Record(key, str(request.kernel.identity), inputs, mode, torch.__version__, verdict)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        described = {"kernel": self.kernel, "inputs": list(self.inputs), "mode": self.mode, "torch": self.torch}
        return {"format": FORMAT, "key": self.key, **described, **self.verdict.as_dict()}


def records_directory() -> Path:
    """Return where the records are. It may not exist yet."""
    return cache_directory() / "admitted"


def read(key: str) -> Record | None:
    """Return the record for a key, if there is one that can be read."""
    return _read(_path(key))


def write(record: Record) -> None:
    """Write a record. Where that is not possible, a warning says so: the kernel will be probed again."""
    try:
        write_record(_path(record.key), record.as_dict())
    except OSError as error:
        _log.warning("the admission of %s cannot be kept, so it will be probed again: %s", record.kernel, error)


def forget(key: str) -> bool:
    """Remove the record for a key, and return whether there was one."""
    try:
        _path(key).unlink()
    except FileNotFoundError:
        return False
    return True


def every() -> Iterator[Record]:
    """Yield all records that can be read, in the order of kernels and keys."""
    found = [record for path in records_directory().glob("*/*.json") if (record := _read(path)) is not None]
    yield from sorted(found, key=lambda record: (record.kernel, record.key))


def _path(key: str) -> Path:
    return records_directory() / key[:2] / f"{key}.json"


def _read(path: Path) -> Record | None:
    found = read_record(path)
    if found is None or found.get("format") != FORMAT or found.get("key") != path.stem:
        return None
    kernel, mode, version, inputs = (found.get(name) for name in ("kernel", "mode", "torch", "inputs"))
    if not all(isinstance(text, str) for text in (kernel, mode, version)) or not isinstance(inputs, list):
        return None
    try:
        verdict = Verdict.from_dict(found)
    except ValueError:
        return None
    return Record(path.stem, str(kernel), tuple(map(str, inputs)), str(mode), str(version), verdict)
