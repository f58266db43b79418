"""Cross entropy over large vocabularies for CPUs in plain torch: needs no compiler and no third-party package."""

from . import layers
from .linear import linear_cross_entropy

__all__ = ["layers", "linear_cross_entropy"]
