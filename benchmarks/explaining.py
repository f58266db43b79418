"""What does explaining cost?

    python benchmarks/explaining.py > benchmarks/results/explaining.jsonl

Explaining a Llama of 32 layers against capturing it: the same call on the same fake tensors by Dynamo, with a backend that does nothing.
At most twice as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from measure import compare, print_row
from overhead import INPUT, everything_mapped, llama

import fxkernels
from fxkernels.capture import _torch
from fxkernels.capture.clone import clone_module

LAYERS = 32


def plain(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
    return gm.forward


def seconds_of(function: Callable[[], object]) -> float:
    torch._dynamo.reset()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Print the row."""
    model = llama(LAYERS)

    def explained() -> None:
        with fxkernels.use_kernel_mapping(everything_mapped()):
            report = fxkernels.explain(model, INPUT)
        assert not report.counts["missed"], report.summary

    def captured() -> None:
        _torch.call_on_fakes(clone_module(model), plain, (INPUT,), {})

    explained()
    captured()
    sides = {"explain": lambda: seconds_of(explained), "capture": lambda: seconds_of(captured)}
    print_row(compare(f"a Llama of {LAYERS} layers", sides))


if __name__ == "__main__":
    main()
