"""Patterns: what a forward may say, and the errors of those that are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxkernels.passes.patterns import ANY, Layer, Pattern, one_of


class WithAtom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = Layer("RMSNorm")

    def forward(self, hidden_states: Any, residual: Any, scale: Any = 1.0) -> Any:
        residual = residual + hidden_states * scale
        return self.norm(residual), residual

    def doubled(self, hidden_states: Any) -> Any:
        return self.norm(hidden_states) * 2


def test_a_pattern_has_parameters_outputs_and_atoms() -> None:
    pattern = Pattern.of(WithAtom())
    assert list(pattern.parameters) == ["hidden_states", "residual", "scale"]
    assert [node.op for node in pattern.outputs] == ["call_module", "call_function"]
    assert (pattern.name, pattern.size, dict(pattern.layers)) == ("WithAtom.forward", 3, {"norm": "RMSNorm"})


def test_matching_begins_at_the_output_that_most_leads_to() -> None:
    pattern = Pattern.of(WithAtom())
    assert pattern.anchor is pattern.outputs[0]


def test_any_method_can_be_a_pattern() -> None:
    assert Pattern.of(WithAtom(), "doubled").name == "WithAtom.doubled"


def test_any_constant_goes_through_every_function_of_torch() -> None:
    class Loose(nn.Module):
        def forward(self, q: Any, k: Any) -> Any:
            scores = F.softmax(F.scaled_dot_product_attention(q, k, k, scale=ANY), dim=ANY)
            return torch.transpose(scores, ANY, 2).expand(ANY)[..., ANY:]

    assert Pattern.of(Loose()).size == 5


def test_spellings_are_counted_as_one_value_and_called_outside_a_pattern_return_the_first() -> None:
    class Spelled(nn.Module):
        def forward(self, x: Any) -> Any:
            return one_of(x.relu(), F.gelu(x), x.tanh()) + 1

    pattern = Pattern.of(Spelled())
    (sum_,) = pattern.outputs
    assert list(pattern.names(sum_.args[0])) == ["relu", "gelu", "tanh"]  # type: ignore[arg-type]
    assert one_of(3, 4) == 3


def test_an_atom_says_that_it_computes_nothing() -> None:
    with pytest.raises(TypeError, match=r"Layer\('RMSNorm'\) is an atom of a pattern"):
        WithAtom()(torch.ones(2), torch.ones(2))


class Conditional(nn.Module):
    def forward(self, x: Any) -> Any:
        return x + 1 if x.sum() > 0 else x


class Empty(nn.Module):
    def forward(self, x: Any) -> Any:
        return ()


class HandsOn(nn.Module):
    def forward(self, x: Any, y: Any) -> Any:
        return x + y, y


class Constant(nn.Module):
    def forward(self, x: Any) -> Any:
        return x + 1, 3


class TwoParts(nn.Module):
    def forward(self, x: Any, y: Any) -> Any:
        return x + 1, y + 1


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        (Conditional(), r"Conditional.forward \(.*test_patterns.py:\d+\) cannot be traced: .*\n.*straight-line code"),
        (Empty(), "it has no operation"),
        (HandsOn(), "it returns its own parameter y: leave that out"),
        (Constant(), "return one value of the pattern, or a tuple of them"),
        (TwoParts(), "has no value in common with .*: these are two patterns"),
    ],
)
def test_what_is_no_pattern_is_an_error_that_says_where_and_why(module: nn.Module, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Pattern.of(module)
