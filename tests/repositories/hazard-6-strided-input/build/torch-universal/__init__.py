"""It reads a strided input as if it were contiguous."""

from . import layers

__all__ = ["layers"]
