"""Kernel layers that break the contract; the build itself can be imported."""

from . import layers

__all__ = ["layers"]
