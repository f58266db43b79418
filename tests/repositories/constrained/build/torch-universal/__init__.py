"""Kernel layers for tests."""

from . import layers
from .ops import CALLS

__all__ = ["CALLS", "layers"]
