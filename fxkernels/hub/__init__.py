"""Kernel repositories: on this machine or on the Hub, from finding the build that fits a target to importing it.

What lives here, in the order in which a load passes through it: `layer_repository` and `repository` (the values that stand in a mapping),
`opening` with `resolve` (a version or branch as a commit) and `trust` (may its code run), `snapshot` and `download` (a repository in one
state, in a folder or in the cache), `variant_choice` (which build fits, and why the others do not), `metadata`, `requirements`, `digests`
(what is checked before anything runs), `dependency_tree` and `importer` (the build as a Python module, after what it depends on); `loading`
is that way in one function. `client` is the only file that
talks to huggingface_hub, `cache` knows where it puts things. `overrides` puts a directory in the place of a repository. `lock`,
`lock_file`, `locking`, `locked_snapshot` and `locked_repository` are what a lock is, how it is written down, how it comes about and how it
is loaded through. `verification` and `layer_listing` look at builds without running them, for the command line. What a kernel layer has to
look like is the business of `fxkernels.kernels`.
"""

from __future__ import annotations

from .builds.metadata import Metadata, read_metadata
from .builds.variant_choice import RejectedVariant, VariantChoice, choose_variant
from .importing.importer import import_variant
from .layer_repository import LayerRepository
from .locked_repository import LockedLayerRepository
from .repository import LocalLayerRepository

__all__ = [
    "LayerRepository",
    "LocalLayerRepository",
    "LockedLayerRepository",
    "Metadata",
    "RejectedVariant",
    "VariantChoice",
    "choose_variant",
    "import_variant",
    "read_metadata",
]
