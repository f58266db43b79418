"""Is refused before it is imported."""

from . import layers

__all__ = ["layers"]
