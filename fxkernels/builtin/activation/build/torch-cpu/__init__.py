"""Gated activations for CPUs in plain torch: need no compiler and no third-party package."""

from . import layers

__all__ = ["layers"]
