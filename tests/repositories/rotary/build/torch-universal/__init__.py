"""Kernel layers for tests."""

from . import layers
from .counter import CALLS

__all__ = ["CALLS", "layers"]
