"""The kernels that tests of gradients and of compilation run through: one row for each way in which a kernel enters a graph.

Example:
    >>> row = ROWS["own backward"]
    >>> model = NormModel().eval()
    >>> torch.compile(model, backend=row.backend(inner="aot_eager"), fullgraph=True)(x)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from row_kernels import row_repository, why_unavailable
from torch import nn

from fxkernels import hubkernels, kernelize, use_kernel_forward_from_hub
from fxkernels.backend import HubKernels
from fxkernels.report.report import Report


@dataclass(frozen=True)
class Row:
    """A kernel of RMSNorm, and what becomes of it.

    Args:
        layer: Its name.
        repository: The folder under ``tests/repositories``.
        lowering: How it enters a graph that is compiled.
        gives_way: Whether the original layer runs in training mode, because the kernel has no backward.
        options: Options of the backend and of `kernelize`.
    """

    layer: str
    repository: str = "norms"
    lowering: str = "traced"
    gives_way: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def mapping(self) -> dict[str, Any]:
        """The mapping that has this kernel alone."""
        return {"RMSNorm": {"cpu": row_repository(self.repository, self.layer)}}

    @property
    def unavailable(self) -> str | None:
        """Why the kernel cannot be had on this machine, if it cannot."""
        return why_unavailable(self.repository)

    def backend(self, inner: str | Callable[..., Any] = "aot_eager", **options: Any) -> HubKernels:
        """A backend that knows this kernel alone."""
        return hubkernels(inner=inner, mapping=self.mapping, **self.options, **options)

    def kernelize(self, model: nn.Module, capture: Any = "dynamo") -> nn.Module:
        """A copy of the model that runs this kernel."""
        return kernelize(model, mapping=self.mapping, capture=capture, **self.options)


ROWS: dict[str, Row] = {
    "own backward": Row("RMSNorm"),
    "operator with a backward": Row("CountedRMSNorm"),
    "no backward": Row("InferenceRMSNorm", gives_way=True),
    "no backward, recomputed": Row("InferenceRMSNorm", options={"backward": "recompute"}),
    "detached": Row("DetachedRMSNorm"),
    "not traceable": Row("UntraceableRMSNorm", lowering="opaque"),
    "operator without a fake": Row("RMSNorm", "cpp-no-fake", lowering="opaque"),
}


@use_kernel_forward_from_hub("RMSNorm")
class WideNorm(nn.Module):
    """RMSNorm as Llama computes it, except that in float64 it computes in float64: so it is its own exact reference."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)
        self.variance_epsilon = 1e-6

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        dtype = hidden_states.dtype
        wide = hidden_states.to(torch.promote_types(dtype, torch.float32))
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(dtype)


class NormModel(nn.Module):
    """A norm of an input, a residual around it, and a norm whose output has two readers. `around` runs the first half (checkpointing)."""

    def __init__(self, around: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.first, self.linear, self.second = WideNorm(), nn.Linear(8, 8), WideNorm()
        self.around = around or (lambda half, x: half(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.around(self.half, x)
        y = self.second(x)
        return y.sin() + x * y

    def half(self, x: torch.Tensor) -> torch.Tensor:
        """The first norm with its residual."""
        return x + self.linear(self.first(x))


def exactly(model: nn.Module) -> nn.Module:
    """Return a copy of a model in float64: the reference that kernels are compared with."""
    return copy.deepcopy(model).double()


def assert_kernels_ran(row: Row, report: Report, *, training: bool, inner: str = "eager") -> None:
    """Check that the report has both calls rewritten, in the way of this kernel; or none, if it gives way."""
    ways = [call.decisions[-1].lowering for call in report.rewritten]
    if row.gives_way and training:
        assert ways == []
    elif inner == "eager":
        assert ways == [None, None]
    else:
        assert [way.name for way in ways if way is not None] == [row.lowering, row.lowering]
