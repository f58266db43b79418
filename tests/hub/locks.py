"""A lock of two repositories, as a value."""

from __future__ import annotations

import hashlib
from types import MappingProxyType

from fxkernels.hub import Lock, RepositoryRequest
from fxkernels.hub.builds.digests import Digests
from fxkernels.hub.lock import LockedFiles, LockedRepository

COMMIT, OTHER = "9a31f0c5" * 5, "0123abcd" * 5


def locked(repo_id: str, commit: str = COMMIT, *, version: int | None = 1, revision: str | None = None, **files: bytes) -> LockedRepository:
    digests = {name.replace("_py", ".py"): hashlib.sha256(content).digest() for name, content in files.items()}
    variants = {"torch-universal": LockedFiles(Digests("sha256", MappingProxyType(digests)))}
    request = RepositoryRequest(repo_id, version=None if revision else version, revision=revision)
    return LockedRepository(repo_id, commit, request, MappingProxyType(variants))


NORMS = locked("acme/norms", layers_py=b"norms", init_py=b"")
ROTARY = locked("acme/rotary", OTHER, revision="main", layers_py=b"rotary")
LOCK = Lock("fxkernels.lock", (NORMS, ROTARY), (RepositoryRequest("acme/norms", version=1),))
