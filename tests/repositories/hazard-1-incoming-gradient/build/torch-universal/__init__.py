"""Its backward writes dx where the incoming gradient is."""

from . import layers

__all__ = ["layers"]
