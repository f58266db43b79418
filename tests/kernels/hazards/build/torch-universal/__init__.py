"""Kernels that are wrong without an error: the ten measured hazards, and others of their kind, and the same without the bug."""

from . import layers

__all__ = ["layers"]
