"""Times on disk, so that a form of call is timed once for each kind of machine, and not once for each process.

They lie beside the records of admission, in ``timed`` below the cache directory, and are read first from ``timed`` below the directory that
``FXKERNELS_RECORDS`` names: that is how other machines of the kind get them. They hold no dates and no paths.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from ..admission.records import VARIABLE
from ..cache_directory import cache_directory, read_record, write_record
from ..kernels.lowering.names import hash_of, text_of_graph
from .contest import Contest
from .machine import device_name, versions_of_compilers
from .measured import Measured

_log = logging.getLogger("fxkernels")

FORMAT = 2
"""Raised when something else is timed than before."""


def key_of(contest: Contest) -> str | None:
    """Return a hash of everything on which the times depend; None for a contest that no other process could hold again."""
    parts = {
        "format": FORMAT,
        "device": device_name(contest.device),
        "versions": versions_of_compilers(),
        "inner": contest.inner.timed_as,
        "graph": text_of_graph(contest.original()),
        "inputs": [f"{value!r}" for value in contest.inputs],
        "kernels": sorted(contest.kernels),
        "gradient": contest.gradient,
        "autocast": str(contest.autocast),
        "precision": torch.get_float32_matmul_precision(),
    }
    return hash_of(parts)


def read(key: str, contest: Contest) -> Measured | None:
    """Return the times of a contest that are kept under its key, if they can be read."""
    named = os.environ.get(VARIABLE)
    for place in ([Path(named).expanduser() / "timed"] if named else []) + [cache_directory() / "timed"]:
        content = read_record(_path(place, key))
        if content is None or content.get("format") != FORMAT or content.get("key") != key:
            continue
        try:
            return Measured.from_dict(content, contest.inner.replays)
        except ValueError as error:
            _log.warning("times of kernels in %s cannot be read and will be measured anew: %s", _path(place, key), error)
    return None


def write(key: str, contest: Contest, measured: Measured) -> None:
    """Keep times. Where that is not possible, a warning says so."""
    told: dict[str, Any] = {
        "device": device_name(contest.device),
        "versions": versions_of_compilers(),
        "inner": contest.inner.timed_as,
        "inputs": [str(value) for value in contest.inputs],
        "direction": contest.direction,
        "around": contest.around,
    }
    try:
        write_record(_path(cache_directory() / "timed", key), {"format": FORMAT, "key": key, **told, **measured.as_dict()})
    except OSError as error:
        _log.warning("the times of kernels at %s cannot be kept, so they will be measured again: %s", contest.path, error)


def _path(place: Path, key: str) -> Path:
    return place / key[:2] / f"{key}.json"
