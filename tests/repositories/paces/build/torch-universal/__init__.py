"""Kernels of known speeds."""

from . import layers

__all__ = ["layers"]
