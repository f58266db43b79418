"""What is known of a call when its constraints are checked. Sizes may be sympy expressions of symbols whose ranges are known in part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import sympy
import torch

from .symbolic import Symbols

Size: TypeAlias = Any
"""An int, or a `sympy.Expr`; sympy is not typed."""


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """What a constraint can ask of a tensor.

    Args:
        dtype: Its dtype.
        shape: Its sizes; an expression where they are dynamic.
        stride: Its strides in elements; None for layouts that have none.
        device: Device type.
        requires_grad: Whether a gradient flows to it.
    """

    dtype: torch.dtype
    shape: tuple[Size, ...]
    stride: tuple[Size, ...] | None
    device: str = "cpu"
    requires_grad: bool = False

    def __str__(self) -> str:
        return f"a tensor of {str(self.dtype).removeprefix('torch.')}{list(self.shape)}"


@dataclass(frozen=True, slots=True)
class Opaque:
    """A value of which nothing can be asked but whether it is None.

    Args:
        kind: What it is, in words, e.g. its type.
    """

    kind: str

    def __str__(self) -> str:
        return f"a {self.kind}"


Value: TypeAlias = Any
"""What an argument or attribute can be: `TensorFacts`, `Opaque`, a number (a `sympy.Expr` if it is dynamic), a string, True, False, None, a
dtype, or a tuple of values."""


@dataclass(frozen=True)
class Facts:
    """What is known of one call.

    Args:
        arguments: By name, with the defaults of those that were left out.
        attributes: Of the layer, by dotted name without ``self.``.
        training: The layer's training flag, None if it is not known.
        capability: Compute capability times ten, None if there is none.
        torch: Torch's version.
        triton: Triton's version, None if it is not installed.
        ranges: For symbols that occur in sizes, the smallest and the largest value; None for no bound. What the symbol itself assumes
            (``positive=True``) holds too. A range that is too wide does no harm; one that is too narrow gives wrong answers.
        divisors: For symbols that are known to be multiples of a number, that number.
    """

    arguments: Mapping[str, Value] = field(default_factory=dict)
    attributes: Mapping[str, Value] = field(default_factory=dict)
    training: bool | None = None
    capability: int | None = None
    torch: str | None = None
    triton: str | None = None
    ranges: Mapping[sympy.Symbol, tuple[int | None, int | None]] = field(default_factory=dict)
    divisors: Mapping[sympy.Symbol, int] = field(default_factory=dict)

    @cached_property
    def symbols(self) -> Symbols:
        """What is known of the symbols in the sizes."""
        return Symbols(self.ranges, self.divisors)


def tensor_facts(tensor: torch.Tensor) -> TensorFacts:
    """Return what constraints can ask of a tensor, real or fake."""
    strided = tensor.layout is torch.strided
    return TensorFacts(
        tensor.dtype,
        tuple([size(item) for item in tensor.shape]),
        tuple([size(item) for item in tensor.stride()]) if strided else None,
        tensor.device.type,
        tensor.requires_grad,
    )


def size(value: int | torch.SymInt) -> Size:
    """Return a size as a number where it is one, and as an expression of the shape environment's symbols where it is not."""
    if not isinstance(value, torch.SymInt):
        return value
    expression = value.node.expr
    return int(expression) if expression.is_Integer else expression
