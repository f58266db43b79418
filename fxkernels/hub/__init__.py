"""Kernel repositories: directories in Hub layout, from finding the build that fits a target to importing it.

What lives here, in the order in which a load passes through it: `repository` (the values that stand in a mapping), `variants` (which
``build/<variant>/`` fits a target, and why the others do not), `metadata` (``metadata.json``), `importer` (the build as a Python module).
What a kernel layer has to look like once it is loaded is the business of `fxkernels.kernels`.
"""

from __future__ import annotations

from .importer import import_variant
from .metadata import Metadata, read_metadata
from .repository import LocalLayerRepository
from .variants import RejectedVariant, VariantChoice, choose_variant

__all__ = ["LocalLayerRepository", "Metadata", "RejectedVariant", "VariantChoice", "choose_variant", "import_variant", "read_metadata"]
