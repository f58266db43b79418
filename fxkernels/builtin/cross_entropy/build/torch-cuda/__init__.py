"""Cross entropy over large vocabularies in Triton: from logits, and from what the logits are computed of."""

from . import layers
from .linear import linear_cross_entropy

__all__ = ["layers", "linear_cross_entropy"]
