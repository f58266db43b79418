"""Cases for the probe, made without a compiler: a kernel's forward, a reference, and tensors that say what the inputs are.

Example:
    >>> case = probe_case_for(MyNorm, llama_norm, [torch.randn(4, 8)], {"weight": torch.randn(8)}, {"variance_epsilon": 1e-6})
    >>> probe(case).result
    'admitted'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from fxkernels.admission.probe_case import ProbeCase
from fxkernels.kernels.call import Slot
from fxkernels.kernels.layer import KernelIdentity, KernelLayer
from fxkernels.kernels.samples import specs_of
from fxkernels.kernels.stand_in import LayerState


def probe_case_for(
    kernel: KernelLayer | type[nn.Module],
    reference: Callable[..., Any],
    arguments: Sequence[Any],
    tensors: Mapping[str, torch.Tensor] | None = None,
    constants: Mapping[str, Any] | None = None,
    *,
    gradient: bool = True,
    training: bool = False,
    host: type[nn.Module] = nn.Module,
    **given: Any,
) -> ProbeCase:
    """Return the case for a call.

    Args:
        kernel: The kernel layer, or its class.
        reference: From the arguments and the layer's tensors to the output, in a form that torch.fx traces.
        arguments: Tensors and constants; a tensor stands for its metadata.
        tensors: The layer's tensors.
        constants: The layer's constants.
        gradient: Whether grad mode is on.
        training: The layer's training flag.
        host: The layer's class.
        given: Further fields of the case.
    """
    if isinstance(kernel, type):
        kernel = KernelLayer(kernel, KernelIdentity("test/kernels", None, kernel.__name__, None))
    tensors, constants = dict(tensors or {}), dict(constants or {})
    inputs = [value for value in arguments if isinstance(value, torch.Tensor)] + list(tensors.values())
    first = len(inputs) - len(tensors)
    slots = iter(range(first))
    args = tuple(Slot(next(slots)) if isinstance(value, torch.Tensor) else value for value in arguments)
    own = {name: Slot(first + number) for number, name in enumerate(tensors)}
    specs = specs_of(inputs, {}, frozenset(range(first, len(inputs))), gradient)
    wanted = gradient and any(value.requires_grad for value in inputs)
    names = [f"input {number}" for number in range(first)] + [f"self.{name}" for name in tensors]
    return ProbeCase(
        **{
            "kernel": kernel,
            "args": args,
            "kwargs": {},
            "tensors": own,
            "state": LayerState(host, tuple(tensors), constants),
            "training": training,
            "reference": graph_of(reference, args, len(inputs)),
            "inputs": (specs,),
            "passed": {},
            "gradient": wanted and kernel.has_backward,
            "names": tuple(names),
            **given,
        }
    )


def graph_of(function: Callable[..., Any], args: tuple[Any, ...], count: int) -> fx.GraphModule:
    """Return the function as a graph of its tensors, to a flat tuple of its outputs."""
    tracer = fx.Tracer()
    names = ", ".join(f"input_{number}" for number in range(count))
    scope: dict[str, Any] = {}
    rest = ", ".join(f"input_{number}" for number in range(sum(isinstance(arg, Slot) for arg in args), count))
    shown = ", ".join(f"input_{arg.position}" if isinstance(arg, Slot) else repr(arg) for arg in args)
    exec(
        f"def call({names}):\n    return flat(function({', '.join(filter(None, (shown, rest)))}))",
        {"function": function, "flat": flat},
        scope,
    )
    return fx.GraphModule(nn.Module(), tracer.trace(scope["call"]))


def flat(output: Any) -> tuple[Any, ...]:
    """One output as a tuple."""
    return tuple(output) if isinstance(output, tuple | list) else (output,)
