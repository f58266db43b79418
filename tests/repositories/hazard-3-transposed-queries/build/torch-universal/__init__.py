"""It rotates queries and keys in place where they are transposed views, which is how models hand them over."""

from . import layers

__all__ = ["layers"]
