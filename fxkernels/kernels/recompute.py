"""A kernel's values with the reference's gradient: what runs where a kernel has no backward and a gradient flows nevertheless."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .second_order import nodes_between

# Asked once: Dynamo of torch 2.11 cannot trace the question.
_AUTOCAST_DEVICES = frozenset(
    name for name in ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "maia") if torch.amp.is_autocast_available(name)
)


def recomputed_backward(kernel: Callable[..., Any], reference: Callable[..., Any], inputs: Sequence[Any]) -> Any:
    """Return what `kernel` returns for the inputs; its gradient is that of `reference`, recomputed when it is needed.

    The inputs are kept for the backward, the reference's activations are not. The gradient can be differentiated again, and AOTAutograd can
    trace it.

    Args:
        kernel: Takes the inputs and returns a tensor, or a tuple of tensors. It runs without autograd.
        reference: Takes the inputs and returns the same tensors (one may stand alone or in a tuple). It runs in the backward only, and may
            use nothing that needs a gradient but its inputs.
        inputs: Tensors and other values. Tensors that neither function takes as an input get no gradient.

    Raises:
        ValueError: In the backward, if the reference returns another number of tensors than the kernel.

    Example:
        >>> x = torch.randn(3, requires_grad=True)
        >>> recomputed_backward(lambda x: fused_sin(x), torch.sin, (x,)).sum().backward()  # x.grad is cos(x)
    """
    if not torch.is_grad_enabled() or not any(isinstance(value, torch.Tensor) and value.requires_grad for value in inputs):
        return kernel(*inputs)
    return _Recomputed.apply(kernel, reference, *inputs)  # type: ignore[no-untyped-call]


def is_cut(outputs: Sequence[torch.Tensor], inputs: Sequence[Any]) -> bool:
    """Return whether a gradient ends between outputs and inputs, in an operator without a backward, whose output looks as if it had one."""
    return any(node.name().endswith("WarnNotImplemented") for node in nodes_between(outputs, inputs))


class _Recomputed(torch.autograd.Function):
    """The autograd node. In the form with `setup_context`, which `torch.func` transforms accept."""

    @staticmethod
    def forward(kernel: Callable[..., Any], reference: Callable[..., Any], *inputs: Any) -> Any:
        outputs = kernel(*inputs)
        if isinstance(outputs, torch.Tensor):
            return _no_input(outputs, inputs)
        return tuple(_no_input(output, inputs) for output in outputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, ctx.reference, *values = inputs
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.count = len(outputs)
        ctx.differentiable = tuple(position for position, value in enumerate(outputs) if _is_differentiable(value))
        others = [value for value in outputs if isinstance(value, torch.Tensor) and not _is_differentiable(value)]
        if others:  # Dynamo takes the call only where the output is a tuple (torch 2.13)
            ctx.mark_non_differentiable(*others)
        # Tensors go through autograd's own store, which notices when one was overwritten before the backward.
        ctx.others = tuple(None if isinstance(value, torch.Tensor) else value for value in values)
        ctx.tensor_positions = tuple(position for position, value in enumerate(values) if isinstance(value, torch.Tensor))
        tensors = [values[position] for position in ctx.tensor_positions]
        ctx.save_for_backward(*tensors)
        # Autograd runs backwards without the forward's autocast; the recomputation has to round where the reference would have rounded.
        device = tensors[0].device.type
        ctx.autocast_device = device if device in _AUTOCAST_DEVICES else "cpu"
        ctx.autocast_enabled = torch.is_autocast_enabled(ctx.autocast_device)
        ctx.autocast_dtype = torch.get_autocast_dtype(ctx.autocast_device)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        values = list(ctx.others)
        for position, tensor in zip(ctx.tensor_positions, ctx.saved_tensors, strict=True):
            values[position] = tensor
        wanted = [position for position in range(len(values)) if ctx.needs_input_grad[2 + position]]
        reference, count, differentiable = ctx.reference, ctx.count, ctx.differentiable

        def outputs_of(*replaced: Any) -> tuple[torch.Tensor, ...]:
            arguments = list(values)
            for position, value in zip(wanted, replaced, strict=True):
                arguments[position] = value
            outputs = reference(*arguments)
            outputs = tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)
            if len(outputs) != count:
                raise ValueError(f"the reference returned {len(outputs)} values where the kernel returned {count}")
            return tuple(outputs[position] for position in differentiable)

        with torch.autocast(ctx.autocast_device, dtype=ctx.autocast_dtype, enabled=ctx.autocast_enabled):
            gradients = _gradients(
                outputs_of, [values[position] for position in wanted], [cotangents[position] for position in differentiable]
            )
        result: list[Any] = [None] * (2 + len(values))
        for position, gradient in zip(wanted, gradients, strict=True):
            result[2 + position] = gradient
        return tuple(result)


def _no_input(output: Any, inputs: tuple[Any, ...]) -> Any:
    """Autograd cannot keep an input for the backward that is an output as well."""
    return output.view_as(output) if isinstance(output, torch.Tensor) and any(output is value for value in inputs) else output


def _is_differentiable(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())


def _gradients(
    function: Callable[..., tuple[torch.Tensor, ...]], inputs: list[torch.Tensor], cotangents: list[torch.Tensor]
) -> Sequence[Any]:
    try:
        outputs, pull_back = torch.func.vjp(function, *inputs)  # type: ignore[misc]
    except RuntimeError:
        # functorch refuses some references that plain autograd takes: an autograd.Function without setup_context, a write to a captured
        # tensor (torch 2.13). If the reference itself is at fault, it raises here again.
        return _gradients_by_autograd(function, inputs, cotangents)
    gradients: Sequence[Any] = pull_back(_like(cotangents, outputs))
    return gradients


def _gradients_by_autograd(
    function: Callable[..., tuple[torch.Tensor, ...]], inputs: list[torch.Tensor], cotangents: list[torch.Tensor]
) -> Sequence[Any]:
    again = torch.is_grad_enabled()  # somebody wants to differentiate this backward
    with torch.enable_grad():
        inputs = [tensor.view_as(tensor) if again else tensor.detach().requires_grad_() for tensor in inputs]
        outputs = function(*inputs)
        pairs = [pair for pair in zip(outputs, _like(cotangents, outputs), strict=True) if pair[0].requires_grad]
    if not pairs:
        return [None] * len(inputs)
    return torch.autograd.grad(
        [output for output, _ in pairs], inputs, [cotangent for _, cotangent in pairs], create_graph=again, allow_unused=True
    )


def _like(cotangents: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """A kernel may return another dtype than the reference (bf16 instead of fp32 under autocast)."""
    return tuple(cotangent.to(output.dtype) for cotangent, output in zip(cotangents, outputs, strict=True))
