"""Its first call stores the weight in the order in which it likes to read it."""

from . import layers

__all__ = ["layers"]
