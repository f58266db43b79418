"""It sums the weight's gradient up in the input's dtype."""

from . import layers

__all__ = ["layers"]
