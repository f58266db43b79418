"""Kernels as custom ops in Python, with fake implementations and autograd registered on them."""

from . import layers

__all__ = ["layers"]
