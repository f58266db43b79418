"""Kernel repositories: on this machine or on the Hub, from finding the build that fits a target to importing it.

`layer_repository` has the values of a mapping, and the same values under a lock or without the network. `loading` leads from one of them
to a layer: open, choose, check, fetch, import. `request` is the name of a repository in a state, `snapshot` the repository in that state,
or a directory of the user that replaces it. `lock` says which repositories may be loaded, `lock_file` reads and writes it. `verification`
checks what is in the cache.

The rooms behind them: `builds` (names, metadata, files and digests of a build), `remote` (the Hub and its cache), `importing` (a build as a
module). `fxkernels.kernels` checks what a kernel layer has to look like.
"""

from __future__ import annotations

from .builds.metadata import ListedLayer, Metadata, is_layers_file, listed_layers, read_metadata
from .builds.paths import variant_files
from .builds.variants import RejectedVariant, VariantChoice, choose_variant, why_not_arch
from .importing.dependencies import get_kernel_dep
from .importing.importer import import_variant
from .layer_repository import (
    CacheOnlyRepository,
    LayerRepository,
    LocalLayerRepository,
    LockedLayerRepository,
    LockOnlyRepository,
    lock_of,
    machine,
)
from .loading import choose_build, open_commit
from .lock import Lock, open_locked
from .lock_file import LOCK_FILE, lock_kernels, read_lock, required_kernels, write_lock
from .remote.cache import CachedRepository
from .remote.hub_snapshot import HubSnapshot
from .remote.resolve import available_versions, forget_resolved, resolve
from .remote.trust import why_not_trusted
from .request import RepositoryRequest, is_repo_id
from .snapshot import LocalSnapshot, Snapshot
from .verification import BuildStatus, verify_cached, verify_directory, verify_lock

__all__ = [
    "LOCK_FILE",
    "BuildStatus",
    "CacheOnlyRepository",
    "CachedRepository",
    "HubSnapshot",
    "LayerRepository",
    "ListedLayer",
    "LocalLayerRepository",
    "LocalSnapshot",
    "Lock",
    "LockOnlyRepository",
    "LockedLayerRepository",
    "Metadata",
    "RejectedVariant",
    "RepositoryRequest",
    "Snapshot",
    "VariantChoice",
    "available_versions",
    "choose_build",
    "choose_variant",
    "forget_resolved",
    "get_kernel_dep",
    "import_variant",
    "is_layers_file",
    "is_repo_id",
    "listed_layers",
    "lock_kernels",
    "lock_of",
    "machine",
    "open_commit",
    "open_locked",
    "read_lock",
    "read_metadata",
    "required_kernels",
    "resolve",
    "variant_files",
    "verify_cached",
    "verify_directory",
    "verify_lock",
    "why_not_arch",
    "why_not_trusted",
    "write_lock",
]
