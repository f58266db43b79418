"""Raw Triton launches inside of autograd functions, forward and backward: nothing that torch could trace by itself."""

from . import layers

__all__ = ["layers"]
