"""Its backward works in the memory of what it saved."""

from . import layers

__all__ = ["layers"]
