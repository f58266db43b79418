"""The experts of a mixture for CPUs in plain torch: needs no compiler and no third-party package."""

from . import layers

__all__ = ["layers"]
