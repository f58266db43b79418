"""Kernel layers that no compiler can trace, one for each way in which an operator has to be more careful than they are."""

from . import layers
from .counter import CALLS

__all__ = ["CALLS", "layers"]
