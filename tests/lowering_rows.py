"""The ways in which kernels on the Hub register their ops, a model that calls them, and what must come of it on any device.

Example:
    >>> row = ROWS["C++ without fake"]
    >>> check_step(row, "cpu", torch.float32, training=True, inner="aot_eager")
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from row_kernels import row_repository, why_unavailable
from tolerances import tolerance
from torch import Tensor, nn

from fxkernels import hubkernels, use_kernel_forward_from_hub
from fxkernels.backend import HubKernels


@dataclass(frozen=True)
class Row:
    """One way of registering ops: a repository, and how its kernels enter a graph.

    Args:
        repository: Its folder under ``tests/repositories``.
        layers: Layer name -> the kernel layer that is mapped to it.
        lowering: The lowering of all of them.
        interpreted: Their lowering where Triton runs in its interpreter, if it is another one there.
        inference_only: The layer names whose kernels say that they have no backward.
    """

    repository: str
    layers: Mapping[str, str]
    lowering: str
    interpreted: str | None = None
    inference_only: frozenset[str] = field(default_factory=frozenset)

    def mapping(self, device: str) -> dict[str, Any]:
        """The mapping of this row's kernels."""
        kind = torch.device(device).type
        return {name: {kind: row_repository(self.repository, layer, kind)} for name, layer in self.layers.items()}

    def backend(self, device: str, **options: Any) -> HubKernels:
        """A backend with this row's kernels."""
        return hubkernels(mapping=self.mapping(device), select="first", **options)

    def why_unavailable(self, device: str) -> str | None:
        """Why it cannot be tested on a device type, if it cannot."""
        return why_unavailable(self.repository, device)

    def lowerings(self, device: str, *, training: bool, recompute: bool = False) -> dict[str, str]:
        """Layer name -> lowering, for every layer that runs a kernel."""
        lowering = self.interpreted if device == "cpu" and self.interpreted is not None else self.lowering
        gives_way = self.inference_only if training and not recompute else ()
        return {name: lowering for name in self.layers if name not in gives_way}


BOTH = {"RMSNorm": "RMSNorm", "SiluAndMul": "SiluAndMul"}

ROWS: dict[str, Row] = {
    "C++ into out": Row("cpp-out", BOTH, "traced", inference_only=frozenset({"SiluAndMul"})),
    "C++ with fake": Row("cpp-fake", {"RMSNorm": "RMSNorm", "AddRMSNorm": "AddRMSNorm"}, "traced"),
    "C++ without fake": Row("cpp-no-fake", BOTH, "opaque"),
    "C++ without fake or backward": Row(
        "cpp-no-fake",
        {"RMSNorm": "UndeclaredRMSNorm", "SiluAndMul": "InferenceSiluAndMul"},
        "opaque",
        inference_only=frozenset({"SiluAndMul"}),
    ),
    "C++ that hides what it saves": Row("cpp-no-fake", {"RMSNorm": "StashingRMSNorm"}, "opaque"),
    "custom op": Row("custom-op", BOTH, "traced"),
    "triton op": Row("triton-op", BOTH, "traced", interpreted="opaque"),
    "raw triton": Row("triton-raw", BOTH, "triton", interpreted="opaque"),
    "raw triton without backward": Row(
        "triton-raw",
        {"RMSNorm": "InferenceRMSNorm", "SiluAndMul": "InferenceSiluAndMul"},
        "triton",
        interpreted="opaque",
        inference_only=frozenset({"RMSNorm", "SiluAndMul"}),
    ),
}


# --- the model ---------------------------------------------------------------------------------------------------------------------------


@use_kernel_forward_from_hub("RMSNorm")
class RMSNorm(nn.Module):
    """As Llama computes it, except that in float64 it computes in float64: so a copy in float64 is the exact reference."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)
        self.variance_epsilon = 1e-6

    def forward(self, hidden_states: Tensor) -> Tensor:
        return _normalized(hidden_states, self.weight, self.variance_epsilon)


@use_kernel_forward_from_hub("AddRMSNorm")
class AddRMSNorm(nn.Module):
    """Two outputs: the norm of a sum, and the sum."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)
        self.variance_epsilon = 1e-6

    def forward(self, hidden_states: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        total = hidden_states + residual
        return _normalized(total, self.weight, self.variance_epsilon), total


@use_kernel_forward_from_hub("SiluAndMul")
class SiluAndMul(nn.Module):
    """The activation of a gated MLP."""

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return F.silu(x[..., :half]) * x[..., half:]


class GatedBlock(nn.Module):
    """Norm, gated MLP, residual and norm. The sizes are no powers of two."""

    def __init__(self, size: int = 40, inner: int = 24) -> None:
        super().__init__()
        self.norm, self.add_norm, self.activation = RMSNorm(size), AddRMSNorm(size), SiluAndMul()
        self.up, self.down = nn.Linear(size, 2 * inner), nn.Linear(inner, size)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.down(self.activation(self.up(self.norm(x))))
        normalized, total = self.add_norm(hidden, x)
        return normalized + total.sin()


def _normalized(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


# --- what must come of it ----------------------------------------------------------------------------------------------------------------


def step(run: Any, model: nn.Module, x: Tensor) -> list[Tensor]:
    """Run a model forward and backward; return its output and the gradients of its input and parameters."""
    x = x.detach().requires_grad_()
    output = run(x)
    weights = torch.linspace(-1, 1, output.numel(), device=x.device, dtype=torch.float64).view_as(output).to(output.dtype)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), [x, *model.parameters()])]


def exact(model: nn.Module) -> nn.Module:
    """Return a copy in float64."""
    return copy.deepcopy(model).double()


def assert_near(found: list[Tensor], expected: list[Tensor], model: nn.Module) -> None:
    """Compare with the reference in float64. Sums over rows, such as the gradient of a weight, are measured by their size."""
    dtype = next(model.parameters()).dtype
    # The errors of three linears, a norm, the activation and a second norm follow on each other.
    allowed = tolerance(dtype, depth=6)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype is dtype
        scale = max(1.0, theirs.abs().max().item()) if theirs.numel() else 1.0
        torch.testing.assert_close(ours.double() / scale, theirs / scale, **allowed)


def lowerings(backend: HubKernels) -> dict[str, str]:
    """Layer name -> lowering, as the report has it, of the calls that run a kernel."""
    return {call.layer_name: call.decisions[-1].lowering.name for call in backend.report.rewritten}


def check_step(
    row: Row, device: str, dtype: torch.dtype, *, training: bool, dynamic: bool | None = None, sizes: tuple[int, ...] = (5,), **options: Any
) -> HubKernels:
    """Compile the model in one graph, run it forward and backward with each size, and compare with float64."""
    model = GatedBlock().to(device, dtype).train(training)
    backend = row.backend(device, **options)
    run = torch.compile(model, backend=backend, fullgraph=True, dynamic=dynamic)
    for size in sizes:
        x = torch.randn(2, size, 40, device=device, dtype=dtype)
        assert_near(step(run, model, x), step(reference := exact(model), reference, x.double()), model)
    recompute = options.get("backward") == "recompute"
    assert lowerings(backend) == row.lowerings(device, training=training, recompute=recompute), str(backend.report)
    return backend


def check_inference(row: Row, device: str, dtype: torch.dtype, *, sizes: tuple[int, ...] = (5,), **options: Any) -> HubKernels:
    """The same without gradients, in eval mode, with any number of rows."""
    model = GatedBlock().to(device, dtype).eval()
    backend = row.backend(device, **options)
    run = torch.compile(model, backend=backend, fullgraph=True, dynamic=len(sizes) > 1 or None)
    with torch.no_grad():
        for size in sizes:
            x = torch.randn(2, size, 40, device=device, dtype=dtype)
            assert_near([run(x)], [exact(model)(x.double())], model)
    assert lowerings(backend) == row.lowerings(device, training=False), str(backend.report)
    return backend
