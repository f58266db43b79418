"""How a kernel layer is called in the place of one layer call: from the arguments as the reference takes them to those of the kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ..passes.layer_call import LayerCall
from ..passes.region import external_inputs
from .call import KernelCall, Operators, Slot
from .layer import KernelLayer
from .lowering.repairs import Repairs
from .origin import LayerOrigin
from .signature import forward_signature, kernel_arguments
from .stand_in import LayerState, stand_in


@dataclass(frozen=True, eq=False)
class Binding:
    """A kernel's arguments for one call.

    Args:
        args: Positional arguments; a `Slot` where a graph value goes.
        kwargs: The same by keyword.
        build_self: From all inputs of the call to the object that the kernel's forward sees as ``self``.
        tensors: What stands for the layer's tensors by their dotted names, graph values as `Slot`.
        state: What else the kernel may know of the layer.
        training: The layer's training flag.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    build_self: Callable[[Sequence[Any]], Any]
    tensors: dict[str, Any]
    state: LayerState
    training: bool

    @staticmethod
    def of(kernel: KernelLayer, call: LayerCall) -> Binding:
        """Bind the arguments of a call whose contract with the kernel has been checked."""
        origin: LayerOrigin = call.site.origin
        positions = {node: position for position, node in enumerate(external_inputs(call))}
        args, kwargs = kernel_arguments(forward_signature(kernel.cls), origin.signature, call.args, call.kwargs)
        state = origin.state or LayerState(kernel.cls)
        build = stand_in(state, bool(call.site.training))
        values = _slots(tuple(call.tensors.values()), positions)

        def build_self(inputs: Sequence[Any]) -> Any:
            return build([inputs[value.position] if type(value) is Slot else value for value in values])

        tensors = dict(zip(call.tensors, values, strict=True))
        return Binding(_slots(args, positions), _slots(kwargs, positions), build_self, tensors, state, bool(call.site.training))

    def kernel_call(
        self,
        kernel: KernelLayer,
        path: str,
        reference: Callable[..., tuple[torch.Tensor, ...]],
        outputs: int,
        differentiable: bool,
        repairs: Repairs | None = None,
        operators: Operators | None = None,
        launches: bool = False,
    ) -> KernelCall:
        """Return the callable that stands in the graph. See `KernelCall` for the arguments."""
        return KernelCall(
            kernel,
            path,
            build_self=self.build_self,
            args=self.args,
            kwargs=self.kwargs,
            reference=reference,
            outputs=outputs,
            differentiable=differentiable,
            repairs=repairs,
            operators=operators,
            launches=launches,
        )


def _slots(value: Any, positions: dict[fx.Node, int]) -> Any:
    if isinstance(value, fx.Node):
        return Slot(positions[value])
    if isinstance(value, tuple):
        return tuple(_slots(item, positions) for item in value)
    if isinstance(value, list):
        return [_slots(item, positions) for item in value]
    if isinstance(value, dict):
        return {key: _slots(item, positions) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(_slots(value.start, positions), _slots(value.stop, positions), _slots(value.step, positions))
    return value
