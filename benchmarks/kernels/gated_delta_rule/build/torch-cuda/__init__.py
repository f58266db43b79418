"""The gated delta rule in chunks, by the kernels of flash-linear-attention."""

from . import layers

__all__ = ["layers"]
