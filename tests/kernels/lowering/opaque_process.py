"""Compile a small model with an opaque kernel and print, as JSON, its operators and how often Inductor's cache was hit.

Run by tests as ``python opaque_process.py <kernel repository>``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch._dynamo.utils import counters

from fxkernels import LocalLayerRepository, hubkernels, use_kernel_forward_from_hub


@use_kernel_forward_from_hub("Norm")
class Norm(nn.Module):
    """Root mean square norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        self.eps = 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


if __name__ == "__main__":
    repository = LocalLayerRepository(Path(sys.argv[1]), layer_name="OperatorNorm")
    backend = hubkernels(mapping={"Norm": {"cpu": repository}})
    model = torch.compile(nn.Sequential(nn.Linear(8, 8), Norm(), nn.Linear(8, 8)), backend=backend, fullgraph=True)
    model(torch.randn(4, 8)).sum().backward()
    (graph,) = backend.report.graphs
    operators = [node.target.operators for node in graph.graph.nodes if getattr(node.target, "operators", None)]
    found = [(list(each.names), each.key) for each in operators]
    print(json.dumps({"operators": found, "hits": counters["inductor"]["fxgraph_cache_hit"]}))
