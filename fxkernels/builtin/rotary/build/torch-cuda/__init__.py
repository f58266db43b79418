"""Rotary position embedding in Triton: queries and keys in one launch."""

from . import layers

__all__ = ["layers"]
