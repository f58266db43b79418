"""RMSNorm kernels that are wrong in some layers only: those with a large epsilon."""

from . import layers

__all__ = ["layers"]
