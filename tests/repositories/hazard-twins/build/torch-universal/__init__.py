"""The kernels of the hazards without what is wrong with them."""

from . import layers

__all__ = ["layers"]
