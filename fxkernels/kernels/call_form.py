"""The form of a layer call: what it has in common with the calls that share its decision."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ..passes.example_values import example
from ..passes.layer_call import LayerCall
from ..passes.region import external_inputs
from .lowering.names import digest, text_of_state, text_of_value, text_of_values
from .origin import LayerOrigin


@dataclass(frozen=True, slots=True)
class CallForm:
    """Equal for two calls exactly if whatever is decided about one holds for the other.

    Args:
        structure: The operations of the region, and which of its inputs are marked where. See `passes.reference.form`.
        values: Dtypes, devices, sizes and strides of inputs and outputs, and which need a gradient.
        autocast: The dtype to which autocast is set where the calls stand; None if it is off.
        layer_name: Their annotation's name.
        training: Their layers' training flag.
        reference: The annotated class or function.
        state: What a kernel can know of the layers besides their tensors.
        opaque: Type names of the arguments that are no graph value, by position or name.
    """

    structure: Hashable
    values: tuple[Hashable, ...]
    autocast: torch.dtype | None
    layer_name: str
    training: bool | None
    reference: Any
    state: Hashable
    opaque: tuple[tuple[int | str, str], ...]

    @staticmethod
    def of(call: LayerCall, structure: Hashable, autocast: torch.dtype | None) -> CallForm:
        """Return the form of a call whose region may be replaced.

        Args:
            call: The call.
            structure: What `passes.reference.form` says of it.
            autocast: The dtype to which autocast is set where it stands.
        """
        origin: LayerOrigin = call.site.origin
        values = values_of(call)
        opaque = tuple(origin.opaque.items())
        return CallForm(structure, values, autocast, call.site.layer_name, call.site.training, origin.reference, origin.state_key, opaque)


def values_of(call: LayerCall) -> tuple[Hashable, ...]:
    """Return dtypes, devices, sizes and strides of a call's inputs and outputs, and which need a gradient."""
    return tuple([metadata(example(node)) for node in (*external_inputs(call), *call.outputs)])


def metadata(value: Any) -> Hashable:
    """Return what a compiled graph depends on of an example value."""
    if not isinstance(value, torch.Tensor):
        return repr(value)
    sizes = [_size(size) for size in value.shape]
    # The stride of a dimension of size 1 is never used, and kernels differ in what they put there.
    strides = tuple(_size(stride) for size, stride in zip(sizes, value.stride(), strict=True) if size != 1)
    return (value.dtype, value.device, value.requires_grad, tuple(sizes), strides)


def key_in_plans(call: LayerCall) -> str:
    """Return what tells the form of a call in a tuned plan: equal in every process for calls whose layers and inputs are alike.

    The operations of the region are not in it: a plan names the versions of the libraries that they depend on.
    """
    inputs = external_inputs(call)
    places = {node: f"<{position}>" for position, node in enumerate(inputs)}
    arguments = fx.node.map_arg((call.args, call.kwargs, call.tensors), lambda node: places[node])
    origin: LayerOrigin | None = call.site.origin
    state = origin.state if origin is not None else None
    values = text_of_values([fact for node in inputs for fact in _facts(example(node))])
    layer = text_of_state(state) if state is not None else ""
    return digest(call.site.layer_name, str(bool(call.site.training)), values, text_of_value(arguments), layer)


def _facts(value: Any) -> list[Any]:
    """What `metadata` says of a value, but for its gradient and the device's number."""
    if not isinstance(value, torch.Tensor):
        return [value]
    strides = [stride for size, stride in zip(value.shape, value.stride(), strict=True) if _size(size) != 1]
    return [str(value.dtype), value.device.type, value.dim(), *value.shape, *strides]


def _size(size: Any) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else size
