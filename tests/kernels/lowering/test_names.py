"""Names of operators and texts of graphs."""

from __future__ import annotations

import torch
from torch import fx

from fxkernels.kernels.lowering.names import text_of_graph


def test_graphs_that_compute_one_function_have_one_text_whatever_their_inputs_are_called() -> None:
    one = fx.symbolic_trace(lambda hidden_states, weight: torch.rsqrt(hidden_states) * weight)
    other = fx.symbolic_trace(lambda x, scale: torch.rsqrt(x) * scale)
    swapped = fx.symbolic_trace(lambda scale, x: torch.rsqrt(x) * scale)
    assert text_of_graph(one) == text_of_graph(other)
    assert text_of_graph(one) != text_of_graph(swapped)
