"""Kernel repositories that ship with the library, in Hub layout (`<name>/build/<variant>/`), and the mapping that offers them.

Those for CPUs are portable: plain torch, no compiler. Those for CUDA are in Triton. Their measurements are in
`benchmarks/README.md`. Nothing here is imported before a kernel is loaded.
"""

from __future__ import annotations

from .losses import linear_cross_entropy
from .repositories import BUILTIN_CUDA_LAYERS, BUILTIN_LAYERS, builtin_mapping, builtin_repository

__all__ = ["BUILTIN_CUDA_LAYERS", "BUILTIN_LAYERS", "builtin_mapping", "builtin_repository", "linear_cross_entropy"]
