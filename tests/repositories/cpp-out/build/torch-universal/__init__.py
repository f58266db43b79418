"""Kernels in C++ that write into an `out` argument. The tests compile `src/ops.cpp` to `libops.so` beside this file."""

from . import layers

__all__ = ["layers"]
