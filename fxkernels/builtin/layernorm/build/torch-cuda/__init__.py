"""LayerNorm in Triton."""

from . import layers

__all__ = ["layers"]
