"""Decides the layer calls of a graph: `gates` has the questions in order, `decider` asks them."""

from .decider import Decider
from .decision_cache import DecisionCache

__all__ = ["Decider", "DecisionCache"]
