"""Triton kernels behind `torch.library.triton_op`: torch sees through them."""

from . import layers

__all__ = ["layers"]
