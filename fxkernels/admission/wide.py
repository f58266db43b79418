"""The reference in float64: the layer's own graph, with every floating dtype in it replaced by the widest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from .wire import mapped

_CASTS = {"float": torch.float64, "half": torch.float64, "bfloat16": torch.float64, "cfloat": torch.complex128, "chalf": torch.complex128}


class NotWidened(Exception):
    """The reference cannot be run in a wider dtype."""


def wide_dtype(dtype: torch.dtype, widest: torch.dtype = torch.float64) -> torch.dtype:
    """Return the dtype in which the reference computes what is of this dtype in the layer."""
    if dtype.is_complex:
        return torch.complex128
    return widest if dtype.is_floating_point else dtype


def widened(value: Any, widest: torch.dtype = torch.float64) -> Any:
    """Return a copy of a tensor in the wide dtype, and anything else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().to(wide_dtype(value.dtype, widest), copy=True)


def run_wide(reference: fx.GraphModule, inputs: Sequence[Any], widest: torch.dtype = torch.float64) -> tuple[Any, ...]:
    """Return the reference's outputs for wide inputs; with autograd, if grad mode is on.

    Raises:
        NotWidened: If an operation of it cannot be done in the wide dtype, or reads the bits of its argument.
    """
    try:
        with _default_dtype(widest):
            outputs: tuple[Any, ...] = _Wide(reference, widest).run(*inputs)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise NotWidened(f"{type(error).__name__}: {error}") from error
    return tuple(outputs)


def rounding_dtype(reference: fx.GraphModule, inputs: Sequence[Any]) -> tuple[tuple[Any, ...], torch.dtype | None]:
    """Return the reference's outputs for these inputs, and the coarsest floating dtype to which it rounds on the way; None if none."""
    watching = _Watching(reference)
    outputs = watching.run(*inputs)
    coarsest = max(watching.dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=None)
    return tuple(outputs), coarsest


class _Wide(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, widest: torch.dtype) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.widest = widest
        self.extra_traceback = False

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return widened(value, self.widest) if isinstance(value, torch.Tensor) else value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = self._mapped(args, kwargs)
        return super().call_function(target, args, kwargs)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target == "view" and any(isinstance(arg, torch.dtype) for arg in (*args[1:], *kwargs.values())):
            raise NotWidened("it reads the bits of a tensor as another dtype")
        if target in _CASTS:
            return args[0].to(wide_dtype(_CASTS[target], self.widest))
        args, kwargs = self._mapped(args, kwargs)
        return super().call_method(target, args, kwargs)

    def _mapped(self, args: Any, kwargs: Any) -> Any:
        return mapped((tuple(args), dict(kwargs)), torch.dtype, lambda dtype: wide_dtype(dtype, self.widest))


class _Watching(fx.Interpreter):
    """Notes the floating dtypes of what is computed."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.extra_traceback = False
        self.dtypes: set[torch.dtype] = set()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op in ("call_function", "call_method") and isinstance(value, torch.Tensor) and value.is_floating_point():
            # A view or a copy rounds nothing: what it is of was there before.
            if any(
                argument is not n and _dtype_of(self.env.get(argument)) is value.dtype for argument in n.all_input_nodes
            ) and _only_moves(n):
                return value
            self.dtypes.add(value.dtype)
        return value


_MOVES = frozenset(
    """unsqueeze squeeze view reshape transpose permute contiguous chunk split getitem expand flatten unflatten t narrow clone detach
    cat""".split()
)


def _only_moves(node: fx.Node) -> bool:
    return (node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")) in _MOVES


def _dtype_of(value: Any) -> torch.dtype | None:
    return value.dtype if isinstance(value, torch.Tensor) else None


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
