"""What does it cost to run a kernel inside of a compiled graph? One subcommand per question, one JSON line per row.

The kernels of `call` and `compile` do next to nothing, so what is measured is the way to them. Those times are of the measuring thread.
`training` wants a GPU and runs the Triton kernels of the tests; it measures the wall clock.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from measure import compare, per_call, print_row
from torch import Tensor, nn

from fxkernels import hubkernels, kernelize, use_kernel_forward_from_hub
from fxkernels.demo_model import Decoder

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # for the kernel repositories of the tests

Mapping = dict[str, dict[str, Any]]


class Layer(nn.Module):
    """A layer that costs one small operation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Traced(nn.Module):
    """The same as a kernel that can be traced."""

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Untraceable(nn.Module):
    """The same as a kernel that refuses tensors without data."""

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is not torch.Tensor:
            raise TypeError("no data")
        return x * self.weight


class Repository:
    """A repository that needs no files."""

    def __init__(self, cls: type[nn.Module]) -> None:
        self.cls = cls

    def load(self) -> type[nn.Module]:
        """Return the kernel layer."""
        return self.cls


class Chain(nn.Module):
    """Layers, one after the other."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def named_layer(name: str) -> type[nn.Module]:
    """A class like `Layer`, annotated with this name."""
    return use_kernel_forward_from_hub(name)(type(name, (Layer,), {"forward": lambda self, x: x * self.weight}))


def check_lowering(report: Any, lowering: str, count: int) -> None:
    """Stop if the calls were not rewritten as the row says."""
    found = [call.decisions[-1].lowering.name for call in report.rewritten]
    if found != [lowering] * count:
        raise click.ClickException(f"expected {count} calls to be {lowering}, got {found}: {report.summary}")


@click.group(help=__doc__)
def main() -> None:
    logging.getLogger("fxkernels").setLevel(logging.ERROR)
    torch.manual_seed(0)


# --- one call ----------------------------------------------------------------------------------------------------------------------------


def thread_seconds(function: Callable[[], object], calls: int, batches: int = 40) -> float:
    """Seconds per call in the fastest of several batches: a short call is only ever disturbed upwards."""
    best = float("inf")
    for _ in range(batches):
        start = time.thread_time()
        for _ in range(calls):
            function()
        best = min(best, (time.thread_time() - start) / calls)
    return best


def compiled_chain(kernel: type[nn.Module], lowering: str, layers: int, x: Tensor) -> nn.Module:
    """A chain of annotated layers, compiled by AOTAutograd without a code generator, all of its calls rewritten."""
    annotated = named_layer("Scale")
    model = Chain([annotated() for _ in range(layers)]).eval()
    backend = hubkernels(inner="aot_eager", mapping={"Scale": {"cpu": Repository(kernel)}})
    run: Any = torch.compile(model, backend=backend, fullgraph=True)
    run(x)
    check_lowering(backend.report, lowering, layers)
    return run  # type: ignore[no-any-return]


@main.command()
@click.option("--layers", default=20, show_default=True)
@click.option("--runs", default=5, show_default=True)
def call(layers: int, runs: int) -> None:
    """One call of a kernel as an operator of its own against the same kernel traced, in a compiled model. At most 10 us more."""
    torch.set_num_threads(1)
    x = torch.ones(1)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            torch._dynamo.reset()
            sides = {
                name: compiled_chain(kernel, lowering, layers, x)
                for name, kernel, lowering in (("opaque", Untraceable, "opaque"), ("traced", Traced, "traced"))
            }
            runs_of = {name: lambda run=run: thread_seconds(lambda: run(x), 20) / layers for name, run in sides.items()}
            row = compare(f"one call, {'with' if grad else 'without'} gradients, forward", runs_of, runs)
        row["more"] = row["sides"]["opaque"] - row["sides"]["traced"]
        print_row(row)


# --- compiling ---------------------------------------------------------------------------------------------------------------------------


def first_call(kernels: int, layers: int, lowering: str) -> float:
    """Thread time of the first call of a chain whose layers are served by this many different kernels."""
    torch._dynamo.reset()
    body = Untraceable if lowering == "opaque" else Traced
    # New classes each time: a process compiles a kernel only once.
    classes = [
        type(f"Kernel{number}", (nn.Module,), {"forward": body.forward, "__annotations__": {"weight": Tensor}}) for number in range(kernels)
    ]
    annotated = [named_layer(f"Scale{number}") for number in range(layers)]
    mapping: Mapping = {f"Scale{number}": {"cpu": Repository(classes[number % kernels])} for number in range(layers)}
    model = Chain([cls() for cls in annotated])
    backend = hubkernels(inner="aot_eager", mapping=mapping)
    x = torch.ones(1, requires_grad=True)
    run = torch.compile(model, backend=backend, fullgraph=True)
    start = time.thread_time()
    run(x).sum().backward()
    seconds = time.thread_time() - start
    check_lowering(backend.report, lowering, layers)
    return seconds


@main.command("compile")
@click.option("--kernels", default=8, show_default=True)
@click.option("--runs", default=5, show_default=True)
def compile_time(kernels: int, runs: int) -> None:
    """First step of a chain of layers with a kernel each against the same chain with one kernel for all: what a further kernel adds."""
    torch.set_num_threads(1)
    for lowering in ("opaque", "traced"):
        first_call(kernels, kernels, lowering)
        sides = {
            f"{kernels} kernels": partial(first_call, kernels, kernels, lowering),
            "one kernel": partial(first_call, 1, kernels, lowering),
        }
        row = compare(f"first step of {kernels} calls, {lowering}", sides, runs)
        many, one = row["sides"].values()
        row["per kernel"] = (many - one) / (kernels - 1)
        print_row(row)


# --- training ----------------------------------------------------------------------------------------------------------------------------

SIZES: dict[str, dict[str, int]] = {
    "1b": {"size": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "inner": 8192, "vocabulary": 128_256},
    "tiny": {"size": 64, "layers": 2, "heads": 4, "kv_heads": 2, "inner": 176, "vocabulary": 256},
}


def inference_kernels(device: str) -> Mapping:
    """Kernels without a backward: Triton on a GPU, torch on the CPU."""
    from kernel_repositories import repository
    from row_kernels import row_repository

    if device == "cpu":
        return {"RMSNorm": {"cpu": repository("norms", "InferenceRMSNorm")}}
    return {name: {device: row_repository("triton-raw", f"Inference{name}", device)} for name in ("RMSNorm", "SiluAndMul")}


def steps(model: Decoder, device: str) -> Iterator[tuple[str, str, Callable[..., Any]]]:
    """How the model is run, on which side, and the function that does it. Each pair of sides differs in the kernels alone."""
    mapping = inference_kernels(device)
    yield "eager", "recompute", kernelize(model, mapping=mapping, backward="recompute")
    yield "eager", "reference", model
    yield "Inductor", "recompute", torch.compile(model, backend=hubkernels(mapping=mapping, backward="recompute"), fullgraph=True)
    yield "Inductor", "reference", torch.compile(model, fullgraph=True)


@main.command()
@click.option("--device", default="cuda", show_default=True)
@click.option("--model", "size", type=click.Choice(list(SIZES)), default="1b", show_default=True)
@click.option("--batch", default=4, show_default=True)
@click.option("--length", default=2048, show_default=True)
@click.option("--runs", default=5, show_default=True)
def training(device: str, size: str, batch: int, length: int, runs: int) -> None:
    """A training step whose norms and activations have no backward, so that the reference's is recomputed, against the step without."""
    model = Decoder(**SIZES[size], longest=length).to(device, torch.bfloat16).train()
    ids = torch.randint(SIZES[size]["vocabulary"], (batch, length), device=device)
    sides: dict[str, dict[str, Callable[[], object]]] = {}
    for how, side, run in steps(model, device):
        sides.setdefault(how, {})[side] = lambda run=run: one_step(model, run, ids)
    for how, pair in sides.items():
        peaks = {side: peak_bytes(step, device) for side, step in pair.items()}
        row = compare(f"training step {size} {batch}x{length} bf16, {how}", {side: per_call(step, 3) for side, step in pair.items()}, runs)
        print_row(row | {"peak_bytes": peaks})


def one_step(model: nn.Module, run: Callable[..., Any], ids: Tensor) -> None:
    """Forward, loss and backward."""
    model.zero_grad(set_to_none=True)
    logits = run(ids)
    F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    if ids.is_cuda:
        torch.cuda.synchronize()


def peak_bytes(step: Callable[[], object], device: str) -> int | None:
    """The most memory that torch had allocated during a step; only a GPU tells."""
    step()
    if not device.startswith("cuda"):
        return None
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    main()
