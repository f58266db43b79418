"""Verdicts on disk: one small JSON file for each key, so that a kernel is probed once, not once for each process.

The files hold no dates and no paths, so a cluster can be given those of one machine: they are shipped beside a lock file, or in a directory
that ``FXKERNELS_RECORDS`` names, and read there before the cache is. Nothing is ever written there but by `ship`. A file that is damaged or
says something else than its name is ignored, and written anew when the kernel has been probed again. The key is a hash of everything on
which a verdict may depend, the same in every process.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..cache_directory import cache_directory, read_record, write_record
from ..hub import LockOnlyRepository
from ..kernels.layer import KernelLayer
from ..kernels.lowering.names import hash_of, state_of, text_of_graph, text_of_state, text_of_value
from .probe_case import ProbeCase
from .verdict import Verdict

_log = logging.getLogger("fxkernels")

FORMAT = 6
"""Raised when a probe shows something else than before, so that older verdicts are not taken for it."""

VARIABLE = "FXKERNELS_RECORDS"
"""The environment variable that names a directory of shipped records."""


def parts_of(case: ProbeCase) -> dict[str, object]:
    """Return what a verdict depends on, by name; values are JSON."""
    kernel, reference = case.kernel, case.reference
    identity, source = kernel.identity, kernel.source
    return {
        "format": FORMAT,
        "repository": [identity.repository, state_of(kernel), identity.layer, identity.variant],
        "target": str(source[1]) if source is not None else _device(str(case.device)),
        "device": _device(str(case.device)),
        "torch": torch.__version__,
        "triton": _version("triton") or _version("pytorch-triton"),
        "region": text_of_graph(reference),
        "arguments": text_of_value((case.args, case.kwargs, case.tensors)),
        "layer": text_of_state(case.state),
        "inputs": [[f"{value!r}" for value in specs] for specs in case.inputs],
        "passed": sorted(case.passed.items()),
        "training": case.training,
        "gradient": case.gradient,
        "autocast": str(case.autocast),
        "precision": torch.get_float32_matmul_precision(),
    }


def key_of(case: ProbeCase) -> str | None:
    """Return the key; None for a case that no other process could make again."""
    return hash_of(parts_of(case))


@dataclass(frozen=True, slots=True)
class Record:
    """One verdict.

    Args:
        key: Its key.
        kernel: Which kernel it is about.
        repository: The repository that it is from.
        state: The repository's commit, or a hash of its files where there is none.
        inputs: What the call's inputs are, one line for each.
        mode: ``"inference"`` or ``"training"``, and whether a gradient was looked at.
        torch: The version of torch.
        verdict: The verdict.
    """

    key: str
    kernel: str
    repository: str
    state: str
    inputs: tuple[str, ...]
    mode: str
    torch: str
    verdict: Verdict

    @staticmethod
    def of(key: str, case: ProbeCase, verdict: Verdict) -> Record:
        """Return the record of a verdict."""
        mode = f"{'training' if case.training else 'inference'}{', with gradient' if case.gradient else ''}"
        inputs = tuple(f"{name}: {value}" for name, value in zip(case.names, case.inputs[0], strict=True))
        kernel = case.kernel
        identity = kernel.identity
        return Record(key, str(identity), identity.repository, state_of(kernel), inputs, mode, torch.__version__, verdict)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        kernel = {"kernel": self.kernel, "repository": self.repository, "state": self.state}
        described = {**kernel, "inputs": list(self.inputs), "mode": self.mode, "torch": self.torch}
        return {"format": FORMAT, "key": self.key, **described, **self.verdict.as_dict()}


def records_directory() -> Path:
    """Return where the records are. It may not exist yet."""
    return cache_directory() / "admitted"


def shipped_with(lockfile: Path) -> Path:
    """Return the directory in which the records of a lock file's kernels are shipped: ``fxkernels.admitted`` beside ``fxkernels.lock``."""
    return lockfile.with_suffix(".admitted")


def places_for(kernel: KernelLayer) -> tuple[Path, ...]:
    """Return the directories in which records about a kernel may have been shipped, in the order in which they are read."""
    repository = kernel.source[0] if kernel.source is not None else None
    lockfile = repository.lock.where if isinstance(repository, LockOnlyRepository) else getattr(repository, "lockfile", None)
    beside = (shipped_with(Path(lockfile)),) if lockfile is not None else ()
    named = os.environ.get(VARIABLE)
    return (*beside, Path(named).expanduser()) if named else beside


def read(key: str, places: Iterable[Path] = ()) -> Record | None:
    """Return the record for a key, if there is one that can be read.

    Args:
        key: The key.
        places: Directories of shipped records, which are read before the cache.
    """
    for place in (*places, records_directory()):
        record = _read(_path(key, place))
        if record is not None:
            return record
    return None


def ship(directory: Path, wanted: Callable[[Record], bool]) -> tuple[list[Record], list[str]]:
    """Copy records of the cache into a directory, and remove those from it that are not wanted or cannot be read.

    Args:
        directory: The directory. What is there and wanted stays, also if it is from another machine.
        wanted: Whether a record belongs there.

    Returns:
        The records that are there now, and the keys of those that were removed.

    Raises:
        OSError: If the directory cannot be written.
    """
    removed = []
    for path in sorted(directory.glob("*/*.json")):
        record = _read(path)
        if record is None or not wanted(record):
            path.unlink(missing_ok=True)
            removed.append(path.stem)
    for record in every():
        if wanted(record):
            write_record(_path(record.key, directory), record.as_dict())
    return list(every(directory)), removed


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


def every(directory: Path | None = None) -> Iterator[Record]:
    """Yield all records that can be read, in the order of kernels and keys: those of the cache, or of another directory."""
    place = records_directory() if directory is None else directory
    found = [record for path in place.glob("*/*.json") if (record := _read(path)) is not None]
    yield from sorted(found, key=lambda record: (record.kernel, record.key))


def _path(key: str, place: Path | None = None) -> Path:
    return (records_directory() if place is None else place) / key[:2] / f"{key}.json"


def _read(path: Path) -> Record | None:
    found = read_record(path)
    if found is None or found.get("format") != FORMAT or found.get("key") != path.stem:
        return None
    texts = [found.get(name) for name in ("kernel", "repository", "state", "mode", "torch")]
    inputs = found.get("inputs")
    if not all(isinstance(text, str) for text in texts) or not isinstance(inputs, list):
        return None
    kernel, repository, state, mode, version = map(str, texts)
    try:
        verdict = Verdict.from_dict(found)
    except ValueError:
        return None
    return Record(path.stem, kernel, repository, state, tuple(map(str, inputs)), mode, version, verdict)


@functools.cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _device(name: str) -> str:
    device = torch.device(name)
    if device.type != "cuda" or not torch.cuda.is_available():
        return device.type
    major, minor = torch.cuda.get_device_capability(device)
    return f"{device.type} {major}.{minor}"
