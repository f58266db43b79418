"""Attention with grouped queries for CPUs, in torch alone: queries of a group are rows of one product with their key head."""

from . import layers

__all__ = ["layers"]
