"""What a loss without logits saves in training: ``python benchmarks/fused_training.py ROWS LENGTH`` on a GPU.

Forward and backward of a Llama 1B in bfloat16, of which only the loss is read: Inductor, and Inductor with fxkernels, which is told that
nothing reads the logits (``drop_outputs=``), and with ``--kernel`` takes the built-in kernel for the loss. Both are compiled first, then
they take turns. One JSON line is printed, with the peak of allocated memory of each side; `results/fused_training.jsonl` holds the lines.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measure import compare, print_row
from torch import Tensor, nn
from whole_models import calls
from whole_models.architectures import llama

import fxkernels
from fxkernels.builtin import builtin_repository

RUNS, STEPS, LOSS = 5, 5, "linear_cross_entropy"


def main() -> None:
    """Compile both sides, let them take turns, and print the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("rows", type=int)
    parser.add_argument("length", type=int)
    parser.add_argument("--kernel", action="store_true", help="take the kernel for the loss, whether or not it is faster")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_device("cuda")
    model = llama("full", None, None).train()
    inputs = calls.labelled(args.rows, args.length, model)
    mapping = {LOSS: {"cuda": builtin_repository(LOSS)}}
    backend = fxkernels.hubkernels(mapping=mapping, select="first" if args.kernel else None, drop_outputs=LOSS)
    sides = {"Inductor": torch.compile(model), "hubkernels": torch.compile(model, backend=backend)}
    losses, gradients, peaks = {}, {}, {}
    for name, run in sides.items():
        step(model, run, inputs)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        losses[name] = float(step(model, run, inputs))
        peaks[name] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        gradients[name] = [parameter.grad.cpu() for parameter in model.parameters() if parameter.grad is not None]
    question = f"Llama 1B, training step of {args.rows}x{args.length}, only the loss is read{', by the kernel' if args.kernel else ''}"
    row = compare(question, {name: partial(seconds, model, run, inputs) for name, run in sides.items()}, RUNS)
    differences = [float((a - b).norm() / b.norm()) for a, b in zip(gradients["hubkernels"], gradients["Inductor"], strict=True)]
    rewritten = [call.layer_name for call in backend.report.rewritten]
    print_row(row | {"peak GiB": peaks, "losses": losses, "worst gradient": max(differences), "rewritten": rewritten})


def step(model: nn.Module, run: Callable[..., Any], inputs: dict[str, Any]) -> Tensor:
    """The loss, after forward and backward."""
    for parameter in model.parameters():
        parameter.grad = None
    output = run(**inputs)
    output.loss.backward()
    return calls.loss(output)


def seconds(model: nn.Module, run: Callable[..., Any], inputs: dict[str, Any]) -> float:
    """What a step takes on the GPU."""
    step(model, run, inputs)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    for _ in range(STEPS):
        step(model, run, inputs)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / STEPS / 1e3


if __name__ == "__main__":
    main()
