"""Is a built-in Triton kernel as fast as Inductor's own code for the same layer, and how near is it to the bandwidth of a copy?

One JSON line per kernel, size and direction: microseconds on the GPU, from a CUDA graph of many calls, so that neither Python nor the
launch counts; `floor` is a copy that moves as many bytes as the layer has to, measured in the same way; `bandwidth` is the part of its
speed that the kernel reaches. One more line for the loss over a large vocabulary, with peak memory.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from measure import print_row
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the layers are those that the tests compare the kernels with

from builtin_cases import CASES, Case, kernel_of, prepared

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


def microseconds(run: Callable[[], object], replays: int = 5) -> float:
    """The time of one call on the GPU: the fastest of some replays of a graph of as many calls as take about a millisecond."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    calls = max(1, min(50, int(1e-3 / (time.perf_counter() - start)) * 4))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            run()
    graph.replay()
    times = []
    for _ in range(replays):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / calls)
    return min(times)


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


def copy_of(size: int) -> Callable[[], object]:
    """A copy that moves so many bytes, half of them in and half out."""
    source, destination = (torch.empty(max(1, size // 4), device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return lambda: destination.copy_(source)


def rows_of(name: str, rows: int, size: int) -> Iterator[dict[str, Any]]:
    """Forward, and forward with backward."""
    case = CASES[name]
    layer, arguments = arguments_of(name, rows, size)
    kernel = kernel_of(case, "cuda")
    sides = {"eager": layer, "inductor": torch.compile(layer, fullgraph=True, dynamic=False), "kernel": lambda *a: kernel(layer, *a)}
    inputs = [value for value in (*arguments, *layer.parameters()) if isinstance(value, Tensor) and value.requires_grad]
    outputs = layer(*arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    grads = [torch.randn_like(y) for y in outputs]
    moved = bytes_moved(case, arguments, outputs)
    del outputs

    def forward(side: Callable[..., Any]) -> Callable[[], object]:
        def run() -> object:
            with torch.no_grad():
                return side(*arguments)

        return run

    def both(side: Callable[..., Any]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(side(*arguments), inputs, grads)

    for direction, make, size_moved in (("forward", forward, moved[0]), ("forward and backward", both, moved[1])):
        times = {side: microseconds(make(function)) for side, function in sides.items()}
        floor = microseconds(copy_of(size_moved))
        yield {
            "question": f"{case.layer_name} ({name}) {rows}x{size} bfloat16, {direction}",
            "microseconds": times | {"floor": floor},
            "ratio": times["inductor"] / times["kernel"],
            "bandwidth": floor / times["kernel"],
            "bytes": size_moved,
        }


def loss_row(tokens: int, width: int = 2048, vocabulary: int = 128_256) -> dict[str, Any]:
    """A training step of output layer and loss: milliseconds, and the peak of memory over what is there before."""
    hidden = torch.randn(tokens, width, device="cuda", dtype=torch.bfloat16).requires_grad_()
    weight = (torch.randn(vocabulary, width, device="cuda", dtype=torch.bfloat16) / width**0.5).requires_grad_()
    target = torch.randint(vocabulary, (tokens,), device="cuda")

    def eager(h: Tensor, w: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(h, w).float(), target)

    sides = {"eager": eager, "inductor": torch.compile(eager, fullgraph=True), "kernel": lambda h, w: linear_cross_entropy(h, w, target)}
    found: dict[str, dict[str, float]] = {"milliseconds": {}, "peak GiB": {}}
    for name, side in sides.items():
        for _ in range(2):
            torch.autograd.grad(side(hidden, weight), (hidden, weight))
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(3):
            torch.autograd.grad(side(hidden, weight), (hidden, weight))
        end.record()
        end.synchronize()
        found["milliseconds"][name] = begin.elapsed_time(end) / 3
        found["peak GiB"][name] = (torch.cuda.max_memory_allocated() - before) / 2**30
        torch.cuda.empty_cache()
    return {"question": f"linear cross entropy, {tokens} tokens, width {width}, vocabulary {vocabulary}, bfloat16", **found}


@click.command(help=__doc__)
@click.argument("kernels", nargs=-1, type=click.Choice(KERNELS))
@click.option("--quick", is_flag=True, help="Two sizes and fewer kernels, about a minute.")
@click.option(
    "--seconds", default=150, show_default=True, help="No further kernel is started after so many seconds; what is left out is said."
)
def main(kernels: tuple[str, ...], quick: bool, seconds: int) -> None:
    torch.manual_seed(0)
    start, machine = time.monotonic(), torch.cuda.get_device_name()
    seconds = min(seconds, 50) if quick else seconds
    told = {"machine": machine, "torch": torch.__version__}
    print_row(loss_row(4096 if quick else 8192) | told)
    left_out = []
    for rows, size in SIZES[:2] if quick else SIZES:
        for name in kernels or KERNELS:
            if time.monotonic() - start > seconds:
                left_out.append(f"{name} {rows}x{size}")
                continue
            try:
                for row in rows_of(name, rows, size):
                    print_row(row | told)
            except (RuntimeError, torch.OutOfMemoryError) as error:
                print_row({"question": f"{name} {rows}x{size}", "error": str(error).splitlines()[0][:300]} | told)
            torch._dynamo.reset()
            torch.cuda.empty_cache()
    if left_out:
        print_row({"left out, for want of time": left_out} | told)


if __name__ == "__main__":
    main()
