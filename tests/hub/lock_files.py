"""Lock files of repositories on the loopback Hub, and changes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fxkernels import LockedLayerRepository
from fxkernels.hub import RepositoryRequest, lock_kernels, write_lock

NORMS = RepositoryRequest("acme/norms", version=1)


def write(folder: Path, *requires: RepositoryRequest, name: str = "fxkernels.lock", trust: bool = False) -> Path:
    """Write the lock of some repositories, by default of version 1 of acme/norms; return its path."""
    path = folder / name
    write_lock(lock_kernels(requires or (NORMS,), str(path), trust)[0], path)
    return path


def locked(lockfile: Path, **options: Any) -> LockedLayerRepository:
    """The norm of acme/norms, as a lock file has it."""
    return LockedLayerRepository("acme/norms", layer_name="RMSNorm", lockfile=lockfile, **options)


def change(lockfile: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of a lock file."""
    content = json.loads(lockfile.read_text())
    change(content)
    lockfile.write_text(json.dumps(content))


def files_of(content: dict[str, Any], index: int = 0) -> dict[str, str]:
    """The digests of a repository's files in the content of a lock file."""
    found: dict[str, str] = content["repositories"][index]["variants"]["torch-universal"]
    return found
