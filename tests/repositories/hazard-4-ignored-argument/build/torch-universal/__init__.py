"""It takes `unsqueeze_dim` and does not look at it."""

from . import layers

__all__ = ["layers"]
