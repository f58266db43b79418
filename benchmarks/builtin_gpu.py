"""Is a built-in Triton kernel as fast as Inductor's own code for the same layer, as near as a copy to the bandwidth, and as exact as eager?

One JSON line per kernel, size and direction: medians of microseconds on the GPU from replays of a CUDA graph of many calls, so that neither
Python nor launches count, with their spread; `floor` is what moving the bytes takes that have to be moved, at a copy's best; `bandwidth` is
the part of its speed that the kernel reaches; `error` is the largest quotient, over outputs and gradients, of the kernel's distance from
float64 to the eager layer's. One more line for the loss over a large vocabulary, with peak memory.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # whole layers are compiled side by side

import click
import torch
import torch.nn.functional as F
from gpu_timing import Copies, in_other_processes, microseconds
from measure import print_row
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the layers are those that the tests compare the kernels with

from builtin_cases import CASES, Case, exact, kernel_of, prepared, step

from fxkernels.builtin import linear_cross_entropy

SIZES = [(4096, 4096), (16384, 8192), (1, 4096), (256, 4096)]
KERNELS = [
    "RMSNorm",
    "SiluAndMul",
    "rotary",
    "LayerNorm",
    "RMSNorm gated by SiLU",
    "causal convolution, SiLU",
    "NewGELU",
    "RMSNorm zero-centred",
    "GeluTanhAndMul",
]
HEAD = 128


def arguments_of(name: str, rows: int, size: int) -> tuple[torch.nn.Module, list[Any]]:
    """The layer, and arguments of real shapes."""
    if name != "rotary":
        layer, arguments = prepared(CASES[name], torch.bfloat16, rows, size, "cuda")
        return layer, [
            value[:1].detach().requires_grad_() if isinstance(value, Tensor) and value.dim() == 3 else value for value in arguments
        ]
    layer, _ = prepared(CASES[name], torch.bfloat16, 2, HEAD, "cuda")
    heads = [
        torch.randn(1, rows, count, HEAD, device="cuda", dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
        for count in (size // HEAD, size // HEAD // 4)
    ]
    return layer, [*heads, *(torch.randn(1, rows, HEAD, device="cuda", dtype=torch.bfloat16) for _ in range(2)), 1]


def bytes_moved(case: Case, arguments: list[Any], outputs: tuple[Tensor, ...]) -> tuple[int, int]:
    """What has to be moved forward, and forward and backward: each input, output and gradient once in each direction."""
    tensors = [value for value in arguments if isinstance(value, Tensor)]
    inputs, results = (sum(t.numel() * t.element_size() for t in side) for side in (tensors, outputs))
    again = 0 if case.layer_name.startswith("rotary") else inputs  # a rotation back needs no inputs
    return inputs + results, inputs + results + again + results + inputs


Call = Callable[[], object]


def calls_of(name: str, rows: int, size: int) -> tuple[dict[str, dict[str, Call]], tuple[int, int], torch.nn.Module, list[Any]]:
    """Direction -> side -> a call, the bytes of both directions, and what is called with what."""
    case = CASES[name]
    layer, arguments = arguments_of(name, rows, size)
    kernel = kernel_of(case, "cuda")
    sides = {"eager": layer, "inductor": torch.compile(layer, fullgraph=True, dynamic=False), "kernel": partial(kernel, layer)}
    inputs = [value for value in (*arguments, *layer.parameters()) if isinstance(value, Tensor) and value.requires_grad]
    outputs = layer(*arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    grads = [torch.randn_like(y) for y in outputs]

    def forward(side: Callable[..., Any]) -> object:
        with torch.no_grad():
            return side(*arguments)

    def both(side: Callable[..., Any]) -> object:
        return torch.autograd.grad(side(*arguments), inputs, grads)

    directions = {"forward": forward, "forward and backward": both}
    calls = {direction: {name: partial(run, side) for name, side in sides.items()} for direction, run in directions.items()}
    return calls, bytes_moved(case, arguments, outputs), layer, arguments


def error_of(name: str, layer: torch.nn.Module, arguments: list[Any]) -> float:
    """The largest quotient of distances from float64, the kernel's over the eager layer's, over outputs and gradients."""
    found, weights = step(partial(kernel_of(CASES[name], "cuda"), layer), layer, arguments)
    own, _ = step(layer, layer, arguments, weights)
    precise, values = exact(layer, arguments)
    true, _ = step(precise, precise, values, [w.double() for w in weights])
    return max(float((ours - t).norm() / (theirs - t).norm()) for ours, theirs, t in zip(found, own, true, strict=True))


def rows_of(name: str, rows: int, size: int, copies: Copies) -> Iterator[dict[str, Any]]:
    """Forward, and forward with backward."""
    calls, moved, layer, arguments = calls_of(name, rows, size)
    error = error_of(name, layer, arguments)
    for (direction, sides), size_moved in zip(calls.items(), moved, strict=True):
        times = {side: microseconds(call) for side, call in sides.items()}
        medians = {side: median(values) for side, values in times.items()} | {"floor": copies.floor(size_moved)}
        yield {
            "question": f"{CASES[name].layer_name} ({name}) {rows}x{size} bfloat16, {direction}",
            "microseconds": medians,
            "spread": {side: [values[0], values[-1]] for side, values in times.items()},
            "ratio": medians["inductor"] / medians["kernel"],
            "bandwidth": medians["floor"] / medians["kernel"],
            "bytes": size_moved,
            "error": error,
        }


def compiled(job: tuple[str, int, int]) -> None:
    """Compile what `rows_of` times, in another process."""
    for sides in calls_of(*job)[0].values():
        for call in sides.values():
            call()


# --- the loss ----------------------------------------------------------------------------------------------------------------------------


def loss_row(tokens: int = 8192, width: int = 2048, vocabulary: int = 128_256) -> dict[str, Any]:
    """A training step of output layer and loss: milliseconds, the peak of memory over what is there before, and errors."""
    hidden = torch.randn(tokens, width, device="cuda", dtype=torch.bfloat16).requires_grad_()
    weight = (torch.randn(vocabulary, width, device="cuda", dtype=torch.bfloat16) / width**0.5).requires_grad_()
    target = torch.randint(vocabulary, (tokens,), device="cuda")

    def eager(h: Tensor, w: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(h, w).float(), target)

    sides = {"eager": eager, "inductor": torch.compile(eager, fullgraph=True), "kernel": lambda h, w: linear_cross_entropy(h, w, target)}
    row: dict[str, Any] = {"milliseconds": {}, "spread": {}, "peak GiB": {}, "errors": {}}
    wide = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    true = torch.autograd.grad(F.cross_entropy(F.linear(*wide), target), wide)
    for name, side in sides.items():
        found = torch.autograd.grad(side(hidden, weight), (hidden, weight))
        row["errors"][name] = [float((ours - t).norm() / t.norm()) for ours, t in zip(found, true, strict=True)]
        del found
        times, row["peak GiB"][name] = steps_of(lambda side=side: torch.autograd.grad(side(hidden, weight), (hidden, weight)))
        row["milliseconds"][name], row["spread"][name] = median(times), [times[0], times[-1]]
    return {"question": f"linear cross entropy, {tokens} tokens, width {width}, vocabulary {vocabulary}, bfloat16", **row}


def steps_of(run: Call, times: int = 7) -> tuple[list[float], float]:
    """Milliseconds of each of some steps, in order of size, and the peak of memory in GiB."""
    run()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    torch.cuda.synchronize()
    peak = (torch.cuda.max_memory_allocated() - before) / 2**30
    return sorted(first.elapsed_time(second) for first, second in pairwise(marks)), peak


@click.command(help=__doc__)
@click.argument("kernels", nargs=-1, type=click.Choice(KERNELS))
@click.option("--seconds", default=240, show_default=True, help="No further kernel is measured after so many; what is left out is said.")
def main(kernels: tuple[str, ...], seconds: int) -> None:
    start = time.monotonic()
    jobs = [(name, rows, size) for rows, size in SIZES for name in kernels or KERNELS]
    in_other_processes(compiled, jobs)
    torch.manual_seed(0)
    told = {"machine": torch.cuda.get_device_name(), "torch": torch.__version__}
    print_row(loss_row() | told)
    copies, left_out = Copies(), []
    for name, rows, size in jobs:
        if time.monotonic() - start > seconds:
            left_out.append(f"{name} {rows}x{size}")
            continue
        try:
            for row in rows_of(name, rows, size, copies):
                print_row(row | told)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            print_row({"question": f"{name} {rows}x{size}", "error": str(error).splitlines()[0][:300]} | told)
        torch._dynamo.reset()
        torch.cuda.empty_cache()
    if left_out:
        print_row({"left out, for want of time": left_out} | told)


if __name__ == "__main__":
    main()
