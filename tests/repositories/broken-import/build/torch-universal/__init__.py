"""A build whose import fails half-way: one of its modules is already imported then."""

from . import fine, layers

__all__ = ["fine", "layers"]
