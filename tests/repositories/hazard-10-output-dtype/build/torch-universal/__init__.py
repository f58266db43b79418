"""The dtype of its output is not the layer's: that of the input where a float32 weight decides, or float32 always."""

from . import layers

__all__ = ["layers"]
