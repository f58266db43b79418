"""Calls of kernels, made by hand: static ones on real tensors, and dynamic ones on fake tensors as a capture has them."""

from __future__ import annotations

from typing import Any

import torch
from kernel_repositories import repository
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from fxkernels.constraints import parse
from fxkernels.constraints.call_facts import CallFacts
from fxkernels.constraints.gate import ConstraintResult, check_conditions
from fxkernels.kernels.layer import KernelLayer
from fxkernels.target import Target

CPU = Target("cpu", None, "2.13", None, "linux", "x86_64")
H100 = Target("cuda", 90, "2.13", "cu130", "linux", "x86_64")


def kernel() -> KernelLayer:
    """A kernel layer; what it demands, each test says."""
    return repository("constrained", "PairsRMSNorm").load_for(CPU)


def called(target: Target = CPU, *, self_: dict[str, Any] | None = None, training: bool = False, **arguments: Any) -> CallFacts:
    """Return the call of a kernel with these arguments and attributes of the layer."""
    return CallFacts(arguments, self_ or {}, training, target.capability, target.torch, "3.4.0")


def checked(conditions: str | list[str], call: CallFacts, on_depends: Any = "guard") -> ConstraintResult:
    """Return what the gate says."""
    texts = [conditions] if isinstance(conditions, str) else conditions
    return check_conditions(kernel(), [parse(text) for text in texts], call, on_depends)


class Capture:
    """Makes fake tensors with dynamic sizes, all of one shape environment."""

    def __init__(self) -> None:
        self.environment = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.environment)

    def tensor(self, *sizes: int, dynamic: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return a fake tensor of which some dimensions are dynamic."""
        kinds = [DimDynamic.DYNAMIC if dimension in dynamic else DimDynamic.STATIC for dimension in range(len(sizes))]
        context = StatelessSymbolicContext(dynamic_sizes=kinds)
        return self.mode.from_tensor(torch.empty(sizes, dtype=dtype), symbolic_context=context)

    def size(self, value: int, low: int = 2, high: int | None = None) -> Any:
        """Return a dynamic size that the capture knows to be within a range."""
        size = self.tensor(value, dynamic=(0,)).shape[0]
        assert size >= low
        assert high is None or size <= high
        return size

    def number(self, value: float) -> Any:
        """Return a dynamic number."""
        source = ConstantSource("scale")
        symbol = self.environment.create_unspecified_symbol(value, source, DimDynamic.DYNAMIC)
        return self.environment.create_symfloatnode(symbol, hint=value, source=source)

    @property
    def guards(self) -> list[str]:
        """What has been guarded so far."""
        return [str(guard.expr) for guard in self.environment.guards]
