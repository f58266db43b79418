"""What choosing a lowering needs to know of one kernel and one form of call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import fx

from ..binding import Binding
from ..call import Slot
from ..layer import KernelLayer
from ..signature import forward_signature
from .autocast import autocast_to, current_dtype
from .repairs import Repairs

Run = Callable[..., tuple[torch.Tensor, ...]]


class Tools(Protocol):
    """The private torch APIs that lowerings need; `capture/_torch` has them."""

    @property
    def Indescribable(self) -> type[Exception]: ...
    @property
    def SavedTensors(self) -> Callable[[], Any]: ...
    @property
    def Tape(self) -> Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor]], Any]: ...
    def recording_autograd(self) -> AbstractContextManager[None]: ...
    def run_for_real(self, function: Callable[[], Any], devices: Iterable[torch.device] = ()) -> Any: ...
    def watch_on_fakes(self, function: Callable[..., Any], inputs: tuple[Any, ...]) -> Any: ...


@dataclass(frozen=True, eq=False)
class KernelCase:
    """One kernel and one form of call.

    Args:
        kernel: The kernel layer.
        binding: How it is called.
        path: Module path of the first call of this form.
        inputs: Example values of the call's inputs.
        outputs: Example values of its outputs.
        passed: Outputs that are inputs, handed through: position of the output -> position of the input.
        reference: From the inputs to a tuple of the outputs.
        device: The device of the call.
        autocast: The dtype to which autocast is set where the call stands; None if it is off.
    """

    kernel: KernelLayer
    binding: Binding
    path: str
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    passed: Mapping[int, int]
    reference: fx.GraphModule
    device: torch.device
    autocast: torch.dtype | None = None

    @cached_property
    def computed(self) -> tuple[int, ...]:
        """Positions of the outputs that the call computes."""
        return tuple(position for position in range(len(self.outputs)) if position not in self.passed)

    @cached_property
    def differentiable(self) -> tuple[int, ...]:
        """Positions among the computed outputs of those through which the reference lets a gradient flow."""
        return tuple(n for n, position in enumerate(self.computed) if getattr(self.outputs[position], "requires_grad", False))

    @cached_property
    def wanted(self) -> tuple[int, ...]:
        """Positions of the inputs that need a gradient."""
        return tuple(n for n, value in enumerate(self.inputs) if isinstance(value, torch.Tensor) and value.requires_grad)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What the kernel calls its inputs."""
        return input_names(self.kernel, self.binding, len(self.inputs))

    @cached_property
    def light(self) -> KernelCase:
        """The same without its example values, which keep the whole capture alive: of those, kinds and gradients stay."""
        return replace(self, inputs=tuple(map(_stub, self.inputs)), outputs=tuple(map(_stub, self.outputs)))

    def runner(self, repairs: Repairs | None = None) -> Run:
        """Return the function from the inputs to the computed outputs that runs the kernel as it is.

        Args:
            repairs: The inputs and outputs that are copied.
        """
        call = self.binding.kernel_call(self.kernel, self.path, self.reference, len(self.outputs), False, repairs)
        computed, dtype, device = self.computed, self.autocast, self.device.type
        single = len(self.outputs) == 1

        def run(*inputs: Any) -> tuple[torch.Tensor, ...]:
            outputs = call.run(*inputs)
            return (outputs,) if single else tuple([outputs[position] for position in computed])

        def run_with_autocast(*inputs: Any) -> tuple[torch.Tensor, ...]:
            with autocast_to(dtype, device):
                return run(*inputs)

        return run if dtype is None and current_dtype(device) is None else run_with_autocast

    def reference_outputs(self, *inputs: Any) -> tuple[torch.Tensor, ...]:
        """Return the computed outputs as the original layer computes them."""
        with autocast_to(self.autocast, self.device.type):
            outputs = self.reference(*inputs)
        return tuple(outputs[position] for position in self.computed)


def input_names(kernel: KernelLayer, binding: Binding, count: int) -> tuple[str, ...]:
    """Return what a kernel calls the inputs of a call: names of its parameters, and of the layer's tensors."""
    names = [f"input {position}" for position in range(count)]
    parameters = list(forward_signature(kernel.cls).parameters)
    named = [(parameters[min(number, len(parameters) - 1)], value) for number, value in enumerate(binding.args)]
    for name, value in (*named, *binding.kwargs.items(), *((f"self.{name}", value) for name, value in binding.tensors.items())):
        for slot in _slots(value):
            names[slot.position] = name
    return tuple(names)


def _stub(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.empty(0, dtype=value.dtype, device="meta").requires_grad_(value.requires_grad)
    return 0.0 if isinstance(value, float | torch.SymFloat) else 0


def _slots(value: Any) -> list[Slot]:
    if type(value) is Slot:
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, slice):
        value = (value.start, value.stop, value.step)
    return [slot for item in value for slot in _slots(item)] if isinstance(value, list | tuple) else []
