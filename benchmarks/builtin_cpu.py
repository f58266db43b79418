"""Is a built-in CPU kernel layer faster than the eager reference? Forward without gradients, and forward with backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click
import torch
from measure import compare, per_call, print_row
from torch import Tensor, nn

from fxkernels import demo_model
from fxkernels.builtin import BUILTIN_LAYERS, builtin_repository
from fxkernels.target import Target

Call = tuple[Callable[..., Any], list[Tensor]]
"""A function, and the tensors it takes; those that require a gradient are differentiated."""

# One token; the demo's decoder; two sizes of real models.
SIZES: dict[str, list[tuple[int, ...]]] = {
    "RMSNorm": [(1, 1, 2048), (1, 512, 512), (1, 2048, 2048), (1, 2048, 4096)],
    "SiluAndMul": [(1, 1, 11264), (1, 512, 2816), (1, 512, 11264), (1, 2048, 11264)],
    # batch, length, heads of q (k has a quarter of them), head size
    "rotary_pos_emb": [(1, 1, 32, 128), (1, 512, 8, 64), (1, 512, 32, 128), (1, 2048, 32, 64)],
}


def rms_norm_calls(kernel_class: type[nn.Module], shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Call, Call]:
    """The reference and the kernel layer on the same input and weight."""
    reference = demo_model.RMSNorm(shape[-1]).to(dtype)
    kernel = kernel_class()
    kernel.weight, kernel.variance_epsilon = reference.weight, reference.variance_epsilon
    tensors = [torch.randn(shape).to(dtype).requires_grad_(), reference.weight]
    return (lambda x, _: reference(x), tensors), (lambda x, _: kernel(x), tensors)


def silu_and_mul_calls(kernel_class: type[nn.Module], shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Call, Call]:
    """As above."""
    tensors = [torch.randn(shape).to(dtype).requires_grad_()]
    return (demo_model.SiluAndMul(), tensors), (kernel_class(), tensors)


def rotary_calls(kernel_class: type[nn.Module], shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Call, Call]:
    """As above, with queries and keys as the transposed views that models pass."""
    batch, length, heads, size = shape
    q, k = (torch.randn(batch, length, n, size).to(dtype).transpose(1, 2).requires_grad_() for n in (heads, max(1, heads // 4)))
    tensors = [q, k, *(torch.randn(batch, length, size).to(dtype) for _ in range(2))]
    return (demo_model.rotary_pos_emb, tensors), (kernel_class(), tensors)


CALLS = {"RMSNorm": rms_norm_calls, "SiluAndMul": silu_and_mul_calls, "rotary_pos_emb": rotary_calls}


def forward(call: Call) -> Callable[[], object]:
    """The call without gradients."""
    function, tensors = call

    def run() -> None:
        with torch.no_grad():
            function(*tensors)

    return run


def forward_and_backward(call: Call) -> Callable[[], object]:
    """The call and the gradients of everything that requires one."""
    function, tensors = call
    inputs = [tensor for tensor in tensors if tensor.requires_grad]
    outputs = function(*tensors)
    grads = [torch.randn_like(output) for output in (outputs if isinstance(outputs, tuple) else (outputs,))]

    def run() -> None:
        torch.autograd.grad(function(*tensors), inputs, grads)

    return run


def rows(layer_name: str, runs: int) -> Iterator[dict[str, Any]]:
    """One row per size, dtype and direction."""
    kernel_class = builtin_repository(layer_name).load_for(Target.of_machine("cpu")).cls
    for shape in SIZES[layer_name]:
        for dtype in (torch.float32, torch.bfloat16):
            reference, kernel = CALLS[layer_name](kernel_class, shape, dtype)
            for direction in (forward, forward_and_backward):
                size = "x".join(map(str, shape))
                question = f"{layer_name} {size} {str(dtype).removeprefix('torch.')}, {direction.__name__.replace('_', ' ')}"
                yield compare(question, {"eager": per_call(direction(reference)), "kernel": per_call(direction(kernel))}, runs)


@click.command(help=__doc__)
@click.argument("layers", nargs=-1, type=click.Choice(BUILTIN_LAYERS))
@click.option("--runs", default=5, show_default=True, help="Alternating runs per side.")
@click.option("--threads", type=int, help="Threads of torch; by default its own choice. One is steadier where other programs run.")
def main(layers: tuple[str, ...], runs: int, threads: int | None) -> None:
    torch.manual_seed(0)
    if threads is not None:
        torch.set_num_threads(threads)
    for layer_name in layers or BUILTIN_LAYERS:
        for row in rows(layer_name, runs):
            print_row(row)


if __name__ == "__main__":
    main()
