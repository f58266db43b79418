"""Where a layer call comes from: the annotated class or function behind it, as far as planning needs to know it."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import FunctionType

from torch import nn

from .stand_in import LayerState


@dataclass(frozen=True, eq=False)
class LayerOrigin:
    """What capture knows about the layer of one call. Holds classes and constants only, never the user's module.

    Args:
        reference: The annotated class, or the annotated function.
        signature: Signature of the reference, without ``self``.
        is_function: Whether the annotation stands on a function.
        overridden: Whether the layer's class overrides the annotated forward.
        condition: What the annotation's ``condition=`` said of the module, if it has one.
        state: The layer's tensors and constants; None for functions and for names that no mapping serves.
        opaque: Type names of the arguments that are no graph value, by position or name.
    """

    reference: type[nn.Module] | FunctionType
    signature: inspect.Signature
    is_function: bool
    overridden: bool = False
    condition: bool | None = None
    state: LayerState | None = None
    opaque: Mapping[int | str, str] = field(default_factory=dict)

    @cached_property
    def state_key(self) -> Hashable:
        """Equal for two layers that a kernel cannot tell apart but by their tensors."""
        return self.state.key if self.state is not None else None
