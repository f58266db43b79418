"""Attention of decoding steps on CUDA, in Triton: keys and values are read once, whatever the number of query heads."""

from . import layers

__all__ = ["layers"]
