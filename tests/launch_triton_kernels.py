"""Launches every Triton kernel of the tests once per awkward size, forward and backward: a program for `compute-sanitizer` to watch.

Example:
    compute-sanitizer --tool memcheck --error-exitcode 9 python tests/launch_triton_kernels.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).parent))  # where the other modules of the tests are; pytest does it by its configuration

from row_kernels import row_repository

from fxkernels.target import Target

SHAPES = ((1, 2), (3, 42), (33, 130), (2, 5, 1026), (7, 2048))
LAYERS = {"triton-op": ("RMSNorm", "SiluAndMul"), "triton-raw": ("RMSNorm", "SiluAndMul", "TunedSiluAndMul")}


def main() -> None:
    """Launch them."""
    target = Target.of_machine("cuda")
    for name, layers in LAYERS.items():
        for layer_name in layers:
            forward = row_repository(name, layer_name, "cuda").load_for(target).cls.forward
            for shape in SHAPES:
                for dtype in (torch.float32, torch.bfloat16):
                    x = torch.randn(shape, device="cuda", dtype=dtype, requires_grad=True)
                    weight = torch.rand(shape[-1], device="cuda", dtype=dtype, requires_grad=True)
                    forward(SimpleNamespace(weight=weight, variance_epsilon=1e-6), x).sum().backward()
            torch.cuda.synchronize()
            print(name, layer_name, "launched")


if __name__ == "__main__":
    main()
