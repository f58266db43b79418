"""Kernels that are wrong without an error: the ten measured hazards in other clothes."""

from . import layers

__all__ = ["layers"]
