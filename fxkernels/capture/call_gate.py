"""The gate of one rewritten layer: whoever keeps it decides each new form of call, and what was decided is remembered here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from ..kernels.layer import KernelLayer
from ..kernels.lowering.output_order import Order
from .call_memory import CallMemory

KERNELIZED = "_fxkernels"
"""Attribute of a module that belongs to a kernelized model: its `backend` decides the module's calls where somebody compiles it."""

GATE = "_fxkernels_gate"
"""Attribute of a rewritten layer that holds its gate."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What was decided for one form of call.

    Args:
        kernel: The kernel that runs; None for the original layer.
        recompute: Whether the gradient is the original's, recomputed.
        copied: Positions and names of those of the kernel's arguments of which it gets copies, as it overwrites them.
        orders: Positions of the outputs that are copied into the layer's memory layout, with the order of the layer's dimensions.
    """

    kernel: KernelLayer | None
    recompute: bool = False
    copied: frozenset[int | str] = frozenset()
    orders: tuple[tuple[int, Order], ...] = ()


class Keeper(Protocol):
    """Decides the calls of a model's rewritten layers."""

    only_decides: bool
    """Whether calls are decided, and nothing runs but original layers."""

    @property
    def backend(self) -> Any:
        """The backend that decides them where somebody compiles the model."""

    def decide(self, keys: tuple[str, ...], layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Ruling:
        """Decide calls like this one, once."""


class CallGate:
    """The gate of one layer.

    Args:
        keeper: Who decides.
        keys: Keys of the calls that the layer serves.
    """

    def __init__(self, keeper: Keeper, keys: tuple[str, ...]) -> None:
        self.keeper, self.keys = keeper, keys
        self.memory = CallMemory()
        self._runs: dict[tuple[type[nn.Module], Ruling], Callable[..., Any]] = {}

    @property
    def backend(self) -> Any:
        """The backend that decides the layer's calls where somebody compiles it."""
        return self.keeper.backend

    def decide(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], cls: type[nn.Module], runner: Callable[[Ruling], Any]
    ) -> Callable[..., Any]:
        """Return what runs for calls like this one, of which nothing is known yet.

        Args:
            layer: The layer.
            args: Positional arguments of the call.
            kwargs: Its keyword arguments.
            cls: The layer's original class.
            runner: From a ruling to what runs.
        """
        ruling = self.keeper.decide(self.keys, layer, args, kwargs)
        if self.keeper.only_decides:
            original: Callable[..., Any] = runner(Ruling(None))
            return original
        run = self._runs.get((cls, ruling))
        if run is None:
            run = self._runs[cls, ruling] = runner(ruling)
        self.memory.remember(layer, args, kwargs, run)
        return run

    def __deepcopy__(self, memo: dict[int, Any]) -> CallGate:
        return CallGate(copy.deepcopy(self.keeper, memo), self.keys)

    def __reduce__(self) -> tuple[Any, ...]:
        return CallGate, (self.keeper, self.keys)
