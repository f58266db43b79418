"""Compile and train one step with each of several kernels, in a process of its own, and print as JSON what the caches did.

python cached_run.py REPOSITORY CASE... [--save FILE | --load FILE]       a case is LAYER:train or LAYER:eval
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._dynamo.utils import counters  # private: nothing public says what a cache has answered

from fxkernels import hubkernels, use_kernel_forward_from_hub
from fxkernels.hub import LocalLayerRepository


@use_kernel_forward_from_hub("RMSNorm")
class Norm(nn.Module):
    """What the kernel stands in for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 8))
        self.variance_epsilon = 1e-6

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(hidden_states.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * hidden_states * scale


def step(repository: Path, layer: str, *, training: bool) -> dict[str, Any]:
    """One forward and backward; counters, values and the number of rewritten calls."""
    torch._dynamo.reset()
    counters.clear()
    backend = hubkernels(mapping={"RMSNorm": {"cpu": LocalLayerRepository(repository, layer_name=layer)}})
    x = torch.linspace(-1, 1, 16).view(2, 8).requires_grad_()
    output = torch.compile(Norm().train(training), backend=backend, fullgraph=True)(x)
    output.square().sum().backward()
    return {
        "rewritten": len(backend.report.rewritten),
        "values": [output.tolist(), x.grad.tolist()],
        "inductor": dict(counters["inductor"]),
        "aot_autograd": dict(counters["aot_autograd"]),
    }


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("repository", type=Path)
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--load", type=Path)
    asked = parser.parse_args()
    if asked.load is not None:
        torch.compiler.load_cache_artifacts(asked.load.read_bytes())
    found = {}
    for case in asked.cases:
        layer, _, mode = case.partition(":")
        found[case] = step(asked.repository, layer, training=mode == "train")
    if asked.save is not None:
        artifacts, _ = torch.compiler.save_cache_artifacts()
        asked.save.write_bytes(artifacts)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
