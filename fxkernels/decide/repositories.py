"""What can be said of a mapping's repository before it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..kernels.layer import KernelIdentity, said_by


def name_of(repository: Any) -> str:
    """How reports call it before it is known which kernel it has: ``acme/norms:RMSNorm``."""
    layer = said_by(repository, "layer_name")
    where = said_by(repository, "repo_id")
    if where is None and isinstance(path := getattr(repository, "path", None), Path):
        where = path.name
    where = where or type(repository).__qualname__
    return f"{where}:{layer}" if layer is not None else where


def why_not_fetched(repository: Any) -> str | None:
    """Return why a repository cannot be loaded without perhaps fetching something, as a sentence; None if it can."""
    if type(repository).__module__.partition(".")[0] != "kernels":
        return None
    return "it is loaded by the kernels package, which may fetch it, and nothing is fetched to explain"


def kernel_name(identity: KernelIdentity) -> str:
    """What `name_of` calls the repository that a kernel was loaded from."""
    return f"{identity.repository}:{identity.layer}"
