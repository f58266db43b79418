"""RMSNorm in Triton, in the forms that models have: Llama's, rounded once at the end, zero-centred and gated."""

from . import layers

__all__ = ["layers"]
