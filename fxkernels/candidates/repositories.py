"""What can be said of a mapping's repository before it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def name_of(repository: Any) -> str:
    """How reports call it before it is known which kernel it has: ``acme/norms:RMSNorm``."""
    layer = _text(repository, "layer_name")
    where = _text(repository, "repo_id")
    if where is None and isinstance(path := getattr(repository, "path", None), Path):
        where = path.name
    where = where or type(repository).__qualname__
    return f"{where}:{layer}" if layer is not None else where


def why_not_fetched(repository: Any) -> str | None:
    """Return why a repository cannot be loaded without perhaps fetching something, as a sentence; None if it can."""
    if type(repository).__module__.partition(".")[0] != "kernels":
        return None
    return "it is loaded by the kernels package, which may fetch it, and nothing is fetched to explain"


def _text(repository: Any, attribute: str) -> str | None:
    """Read what a repository says about itself; the `kernels` package (0.17) keeps it under a leading underscore."""
    for name in (attribute, f"_{attribute}"):
        if isinstance(value := getattr(repository, name, None), str):
            return value
    return None
