"""Kernel repositories: on this machine or on the Hub, from finding the build that fits a target to importing it.

Here are the values that stand in a mapping (`repository`, `layer_repository`, `locked_repository`) and the way from one of them to a layer:
`opening` (where the repository is, and whether its code may run; `overrides` puts a directory in its place), `snapshot` (a repository in
one state), `loading` (choose, check, fetch, verify, import). The rooms behind it: `builds` (what a repository has), `remote` (the Hub and
its cache), `integrity` (that the files are the right ones), `importing` (a build as a module), `locks` (lock files).

What a kernel layer has to look like is the business of `fxkernels.kernels`.
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
