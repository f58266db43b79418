"""Gated activations and GELUs in Triton."""

from . import layers

__all__ = ["layers"]
