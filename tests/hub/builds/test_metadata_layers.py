"""Reading a build's layers from its source."""

from __future__ import annotations

import pytest

from fxkernels.hub.builds.metadata import ListedLayer, is_layers_file, listed_layers

SOURCE = """
import torch
from torch import nn
from .ops import helper

class RMSNorm(nn.Module):
    has_backward: bool = False
    can_torch_compile = True
    weight: torch.Tensor
    def forward(self, hidden_states: torch.Tensor, *, eps: float = 1e-6) -> torch.Tensor:
        return hidden_states

class Attention(nn.Module):
    def forward(self, q, k, v=None): ...

class Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): ...

class Config:
    eps = 1e-6
"""


def test_layers_are_the_classes_with_a_forward_and_what_they_say_about_themselves() -> None:
    assert listed_layers([SOURCE]) == (
        ListedLayer("Attention", "q, k, v=None"),
        ListedLayer("RMSNorm", "hidden_states: torch.Tensor, *, eps: float=1e-06", has_backward=False, can_torch_compile=True),
    )


@pytest.mark.parametrize("source", ["class :", "x = '\0'", "(" * 5000, ""])
def test_a_source_that_cannot_be_parsed_has_no_layers(source: str) -> None:
    assert listed_layers([source]) == ()


@pytest.mark.parametrize(
    ("path", "expected"),
    [("layers.py", True), ("layers/__init__.py", True), ("layers/norm.py", True), ("flash_norms/layers.py", True), ("ops.py", False)],
)
def test_layers_live_in_a_module_of_that_name(path: str, expected: bool) -> None:
    assert is_layers_file(path) is expected
