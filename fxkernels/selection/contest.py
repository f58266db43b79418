"""What is timed: the neighbourhood of a call as the inner compiler makes it, without a kernel and with each that fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from ..capture import _torch
from ..kernels.lowering.names import text_of_value
from ..kernels.samples import Inputs
from .machine import device_name
from .measured import Measured


@dataclass(frozen=True, eq=False)
class Inner:
    """The compiler that gets the rewritten graphs, as a value.

    Args:
        compiler: The name of a registered backend, or a callable like one.
        mode: Its mode.
        options: Its options.
    """

    compiler: str | Callable[..., Any] = "inductor"
    mode: str | None = None
    options: dict[str, Any] | None = None

    @property
    def is_inductor(self) -> bool:
        """Whether it is Inductor."""
        return _torch.is_inductor(self.compiler)

    @property
    def replays(self) -> bool:
        """Whether what it makes is run by replaying CUDA graphs."""
        return _torch.replays_cuda_graphs(self.compiler, self.mode, self.options)

    @property
    def timed_as(self) -> str:
        """What is timed for it: the same whether or not it uses CUDA graphs, which times are taken without."""
        if not self.is_inductor:
            return str(self)
        settings = _torch.timed_settings(self.compiler, self.mode, self.options)
        return ", ".join(["inductor", *(f"{name}={value!r}" for name, value in settings.items())])

    def compile(self, gm: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        """Return what it makes of a graph that is to be timed; see `timed_compiler`. The graph is the compiler's afterwards."""
        compiler = _torch.timed_compiler(self.compiler, self.mode, self.options)
        with _torch.cacheable(gm):
            compiled: Callable[..., Any] = compiler(gm, inputs)
            return compiled

    def __str__(self) -> str:
        if not isinstance(self.compiler, str):
            return "inductor" if self.is_inductor else text_of_value(self.compiler)
        options = ", ".join(f"{name}={value!r}" for name, value in sorted((self.options or {}).items()))
        return " ".join(part for part in (self.compiler, self.mode, f"({options})" if options else "") if part)


@dataclass(frozen=True, eq=False)
class Contest:
    """One form of call and the kernels that fit it.

    Args:
        original: Returns the neighbourhood as a graph from inputs to a tuple of outputs; a new one at each call, since compilers edit it.
        kernels: The same with a kernel in it, by what tells the kernel from all others: identity, state and how it is called.
        inputs: What goes in, without values.
        gradient: Whether a gradient flows through it; then the backward is timed too.
        device: Where it runs.
        inner: The compiler.
        autocast: The dtype to which autocast is set there; None if it is off.
        path: Module path of the first call of this form, for whoever waits.
        around: How many operations of the neighbourhood are not the call's own.
        names: What reports call the kernels.
    """

    original: Callable[[], fx.GraphModule]
    kernels: Mapping[str, Callable[[], fx.GraphModule]]
    inputs: Inputs
    gradient: bool
    device: torch.device
    inner: Inner
    autocast: torch.dtype | None = None
    path: str = ""
    around: int = 0
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def direction(self) -> str:
        """What is timed, in words."""
        return "forward and backward" if self.gradient else "forward"

    def how(self, measured: Measured) -> str:
        """What was timed and how, in words, if these are its times."""
        # On a GPU the host is timed apart, unless nothing could be captured; those times are coarser, so whoever reads them has to know.
        as_launched = self.device.type == "cuda" and not measured.original.host
        return f"{self}, as launched, since no CUDA graph can be made of it" if as_launched else str(self)

    def __str__(self) -> str:
        operations = f"with {self.around} operation{'' if self.around == 1 else 's'} around it" if self.around else "by itself"
        return f"{self.direction}, {operations}, {device_name(self.device)}"
