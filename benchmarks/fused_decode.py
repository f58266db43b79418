"""What fused attention saves in decoding: ``python benchmarks/fused_decode.py BATCH CONTEXT`` on a GPU.

One token for each row of a Llama 1B with a static cache, in CUDA graphs: Inductor's ``reduce-overhead`` with and without fxkernels and its
built-in mapping. Both are compiled first, then they take turns. One JSON line is printed; `results/fused_decode.jsonl` holds the lines.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measure import compare, print_row
from torch import Tensor
from whole_models import calls
from whole_models.architectures import llama

import fxkernels

RUNS, STEPS, ROOM = 7, 40, 256


def main() -> None:
    """Compile both sides, let them take turns, and print the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("batch", type=int)
    parser.add_argument("context", type=int)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_device("cuda")
    model = llama("full", None, None, masked=True).eval().requires_grad_(False)
    inputs = calls.next_token(args.batch, args.context, ROOM, model)
    backend = fxkernels.hubkernels(inner_mode="reduce-overhead", mapping=fxkernels.builtin_mapping())
    sides = {"Inductor": torch.compile(model, mode="reduce-overhead"), "hubkernels": torch.compile(model, backend=backend)}
    first, outputs = {}, {}
    for name, run in sides.items():
        calls.fill_to(args.context, inputs)
        begin = time.perf_counter()
        for _ in range(3):
            step(run, inputs)
        torch.cuda.synchronize()
        first[name] = round(time.perf_counter() - begin, 1)
        calls.fill_to(args.context, inputs)
        outputs[name] = step(run, inputs).double().clone()
    question = f"Llama 1B, decoding a token, batch {args.batch}, context {args.context} of {args.context + ROOM}"
    row = compare(question, {name: partial(seconds, run, inputs, args.context) for name, run in sides.items()}, RUNS)
    difference = (outputs["hubkernels"] - outputs["Inductor"]).norm() / outputs["Inductor"].norm()
    print_row(row | {"first call": first, "difference": float(difference), "rewritten": len(backend.report.rewritten)})


def step(run: Callable[..., Any], inputs: dict[str, Any]) -> Tensor:
    """The logits of one token."""
    with torch.no_grad():
        return calls.logits(run(**inputs))


def seconds(run: Callable[..., Any], inputs: dict[str, Any], context: int) -> float:
    """What a step takes on the GPU, the cache being filled to `context` at first."""
    calls.fill_to(context, inputs)
    for _ in range(3):
        step(run, inputs)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    for _ in range(STEPS):
        step(run, inputs)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / STEPS / 1e3


if __name__ == "__main__":
    main()
