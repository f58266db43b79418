"""Kernels in C++ without fake implementations. The tests compile `src/ops.cpp` to `libops.so` beside this file."""

from . import layers

__all__ = ["layers"]
