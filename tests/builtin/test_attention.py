"""The built-in attention for decoding, in Triton's interpreter, beside the operations that models write out."""

from __future__ import annotations

import os

import pytest
import torch
from builtin_cases import triton_repository
from torch import Tensor

from fxkernels.target import Target

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="runs in Triton's interpreter: TRITON_INTERPRET=1"),
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),  # numpy on -inf, in the interpreter
]


def attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, softcap: float | None, sinks: Tensor | None) -> Tensor:
    """As models write it out, in float64."""
    query, key, value = query.double(), *(x.double().repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    scores = query @ key.transpose(-2, -1) * 0.3
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    if sinks is not None:
        scores = torch.cat([scores, sinks.double().reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)], -1)
    return torch.softmax(scores, -1)[..., : key.shape[2]] @ value


@pytest.mark.parametrize("length", [5, 300])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("softcap", "with_sinks"), [(None, False), (2.0, False), (None, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_few_queries_attend_as_written_out(length: int, masked: bool, softcap: float | None, with_sinks: bool, dtype: torch.dtype) -> None:
    query, key, value = torch.randn(2, 4, 3, 8), torch.randn(2, 2, length, 8), torch.randn(2, 2, length, 8)
    query, key, value = (x.to(dtype) for x in (query, key, value))
    mask = torch.zeros(2, 1, 3, length, dtype=dtype).masked_fill(torch.rand(2, 1, 3, length) < 0.4, -float("inf")) if masked else None
    if mask is not None:
        mask[..., 0] = 0
    sinks = torch.randn(4).to(dtype) if with_sinks else None
    forward = triton_repository("attention").load_for(Target.of_machine("cpu")).cls.forward
    found = forward(None, query, key, value, mask, 0.0, False, 0.3, softcap, None, sinks)
    wanted = attended(query, key, value, mask, softcap, sinks)
    tolerance = 1e-5 if dtype is torch.float32 else 2e-3
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)
