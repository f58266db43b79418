"""The ten measured hazards: a kernel repository for each, a model in which it does harm, and what fxkernels is to say of it.

One table drives the tests in ``tests/hazards``, and the table in docs/trust.md comes from what they find.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from layers import Norm
from torch import nn

from fxkernels import use_kernel_forward_from_hub

Verdict = Literal["caught", "repaired"]
FoundBy = Literal["probe", "contract", "trial"]
"""By running the kernel in another process; by reading its code; by calling it on fake tensors, which also happens without verification."""


@dataclass(frozen=True)
class Case:
    """A kernel with a hazard, in the place of a layer of a model.

    Args:
        hazard: ``"H1"`` to ``"H10"``.
        repository: Folder under ``tests/repositories``.
        layer: The kernel layer in it.
        model: Makes the model; called after the random seed was set.
        sizes: Of the model's input.
        code: The miss code that is expected; None where copies repair it.
        words: What the report's sentence has to say.
        layer_name: The annotation's name.
        dtype: Of model and input.
        found_by: What would find it first.
    """

    hazard: str
    repository: str
    layer: str
    model: Callable[[], nn.Module]
    sizes: tuple[int, ...]
    code: str | None
    words: str
    layer_name: str = "RMSNorm"
    dtype: torch.dtype = torch.float32
    found_by: FoundBy = "probe"

    def __str__(self) -> str:
        return f"{self.hazard}-{self.layer}"

    @property
    def verdict(self) -> Verdict:
        """What becomes of the kernel."""
        return "repaired" if self.code is None else "caught"

    def make(self) -> tuple[nn.Module, torch.Tensor]:
        """Return the model and its input, the same each time."""
        torch.manual_seed(0)
        model = self.model().to(self.dtype)
        if isinstance(model, WiderWeight):
            model.norm.weight.data = model.norm.weight.data.float()
        return model, torch.randn(self.sizes, dtype=self.dtype)


# --- models -------------------------------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Adds the norm to its input, so both get the very same gradient."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(size, size), Norm(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return x + self.norm(x)


class OfColumns(Residual):
    """Normalizes a part of each row: a view with gaps."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = torch.cat((self.first(x), x), -1).chunk(2, -1)
        return right + self.norm(left)


class WiderWeight(Residual):
    """Has a float32 weight whatever the model's dtype is, and so returns float32."""


@use_kernel_forward_from_hub("GatedRMSNorm")
class GatedNorm(nn.Module):
    """Gated by SiLU."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)
        self.variance_epsilon = 1e-6

    def forward(self, hidden_states: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        dtype = hidden_states.dtype
        wide = hidden_states.float()
        wide = self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)).to(dtype)
        return (wide * nn.functional.silu(gate.float())).to(dtype)


class Gated(nn.Module):
    """A gated norm."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(size, size), GatedNorm(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm(self.first(x), x)


@use_kernel_forward_from_hub("rotary_pos_emb")
def rotary(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotates halves, as Llama does."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)

    def half(x: torch.Tensor) -> torch.Tensor:
        return torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), -1)

    return q * cos + half(q) * sin, k * cos + half(k) * sin


class Attention(nn.Module):
    """Rotated queries and keys, which others read unrotated as well."""

    heads, size = 4, 8

    def __init__(self, transposed: bool = True) -> None:
        super().__init__()
        self.transposed = transposed
        self.q, self.k = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k = (project(x).view(batch, length, self.heads, self.size) for project in (self.q, self.k))
        angles = torch.arange(length, device=x.device)[:, None] * torch.logspace(0, -2, self.size // 2, device=x.device).repeat(2)
        cos, sin = (table.to(x.dtype).expand(batch, -1, -1) for table in (angles.cos(), angles.sin()))
        if self.transposed:
            q, k = q.transpose(1, 2), k.transpose(1, 2)
        rotated_q, rotated_k = rotary(q, k, cos, sin, unsqueeze_dim=1 if self.transposed else 2)
        return rotated_q @ rotated_k.mT + q @ k.mT


def _untransposed() -> nn.Module:
    return Attention(transposed=False)


# --- the table ----------------------------------------------------------------------------------------------------------------------------

_ROWS = (2, 8, 32)
_BF16 = torch.bfloat16

CASES: tuple[Case, ...] = (
    Case("H1", "hazard-1-incoming-gradient", "RMSNorm", Residual, _ROWS, "gradient", "its backward overwrites the incoming gradient"),
    Case("H2", "hazard-2-saved-activations", "RMSNorm", Residual, _ROWS, "gradient", "in a second backward, its gradient of"),
    Case(
        *("H3", "hazard-3-transposed-queries", "rotary_pos_emb", Attention, (2, 6, 32), None, "it overwrites q, k, and gets copies"),
        layer_name="rotary_pos_emb",
    ),
    # As many heads as positions: the angles fit either way.
    Case(
        *("H4", "hazard-4-ignored-argument", "rotary_pos_emb", _untransposed, (2, 4, 32), "numerics", "output 0 is off by"),
        layer_name="rotary_pos_emb",
    ),
    Case("H5", "hazard-5-cut-gradient", "DetachedOutput", Residual, _ROWS, "gradient", "its output is detached", found_by="trial"),
    Case("H5", "hazard-5-cut-gradient", "IdentityGradient", Residual, _ROWS, "gradient", "its gradient of hidden_states is off by"),
    Case("H6", "hazard-6-strided-input", "RMSNorm", OfColumns, _ROWS, "numerics", "output 0 is off by"),
    Case("H7", "hazard-7-repacked-parameters", "RMSNorm", Residual, _ROWS, "mutates_input", "its forward overwrites self.weight"),
    Case(
        *("H7", "hazard-7-repacked-parameters", "WritesData", Residual, _ROWS, "own_state", "writes to the layer: self.weight.data"),
        found_by="contract",
    ),
    Case("H8", "hazard-8-half-sums", "RMSNorm", Residual, (8192, 32), "gradient", "its gradient of self.weight is off by", dtype=_BF16),
    Case("H9", "hazard-9-other-function", "ZeroCentredRMSNorm", Residual, _ROWS, "numerics", "output 0 is off by"),
    Case(
        "H9",
        "hazard-9-other-function",
        "LateRoundingRMSNorm",
        WiderWeight,
        _ROWS,
        "output_metadata",
        "output 0 is bfloat16",
        dtype=_BF16,
        found_by="trial",
    ),
    Case(
        *("H9", "hazard-9-other-function", "SigmoidGatedRMSNorm", Gated, _ROWS, "numerics", "output 0 is off by"),
        layer_name="GatedRMSNorm",
    ),
    Case(
        *("H9", "hazard-9-other-function", "interleaved_rotary", Attention, (2, 6, 32), "numerics", "output 0 is off by"),
        layer_name="rotary_pos_emb",
    ),
    Case(
        *("H9", "hazard-9-other-function", "half_dim_rotary", Attention, (2, 6, 32), "numerics", "output 0 is off by"),
        layer_name="rotary_pos_emb",
    ),
    Case(
        "H10",
        "hazard-10-output-dtype",
        "InputsDtype",
        WiderWeight,
        _ROWS,
        "output_metadata",
        "output 0 is bfloat16",
        dtype=_BF16,
        found_by="trial",
    ),
    Case(
        "H10",
        "hazard-10-output-dtype",
        "AlwaysFloat32",
        Residual,
        _ROWS,
        "output_metadata",
        "output 0 is float32",
        dtype=_BF16,
        found_by="trial",
    ),
)

TWINS: tuple[Case, ...] = (
    Case("twin", "hazard-twins", "RMSNorm", Residual, _ROWS, None, ""),
    Case("twin", "hazard-twins", "RMSNorm", OfColumns, _ROWS, None, ""),
    Case("twin", "hazard-twins", "RMSNorm", Residual, (8192, 32), None, "", dtype=_BF16),
    Case("twin", "hazard-twins", "RMSNorm", WiderWeight, _ROWS, None, "", dtype=_BF16),
    Case("twin", "hazard-twins", "GatedRMSNorm", Gated, _ROWS, None, "", layer_name="GatedRMSNorm"),
    Case("twin", "hazard-twins", "rotary_pos_emb", Attention, (2, 6, 32), None, "", layer_name="rotary_pos_emb"),
    Case("twin", "hazard-twins", "rotary_pos_emb", _untransposed, (2, 4, 32), None, "", layer_name="rotary_pos_emb"),
)
"""The same calls, with kernels that have nothing wrong."""

HAZARDS: dict[str, tuple[str, str]] = {
    "H1": ("The backward writes dX into the incoming gradient", "what a residual connection passes on is wrong"),
    "H2": ("The backward overwrites saved activations", "a second backward, or a second reader, gets wrong gradients"),
    "H3": ("The forward overwrites queries and keys that are transposed views", "later reads get rotated ones"),
    "H4": ("An argument is ignored (`unsqueeze_dim=2`)", "wrong values, or a crash at other sizes"),
    "H5": ("The output is detached, or the gradient is the identity", "training goes on, and learns something else"),
    "H6": ("Strided input is read as if it were contiguous", "values of other rows"),
    "H7": ("The first call repacks the layer's parameters", "the original layer and the next checkpoint are broken"),
    "H8": ("The weight's gradient is summed up in bfloat16", "it is several per cent off at 8192 rows"),
    "H9": ("The same layer name, another function", "wrong values"),
    "H10": ("The output's dtype is not the layer's", "later layers compute in another precision, or fail"),
}
"""Each hazard, and what it would do to a model."""


def first_layer_call(report: Any) -> Any:
    """Return the only layer call of a case's model."""
    (call,) = report.calls
    return call
