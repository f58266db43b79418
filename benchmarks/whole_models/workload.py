"""What a workload is: a model with random weights, what it is called with, and what of the result is compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Inputs = dict[str, Any]
"""The keyword arguments of one call of a model."""


def nothing(inputs: Inputs) -> None:
    """What most workloads do between two batches of calls."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One row of the table.

    Args:
        name: What the command calls it.
        title: What the table calls it, with its sizes.
        model: Makes a model with so many layers on a device; the layers that the workload has, if none are given.
        inputs: Makes what one side's model is called with, each time the same.
        output: What of a result is compared and, in training, differentiated.
        training: Whether a step is forward, backward and taking the gradients away.
        rewind: What has to be done to the inputs before each batch of calls.
        calls: How many calls there may be in a batch.
        tolerance: How far a side may be off, in the norm, relative to eager.
        layer_names: What is mapped besides the default mapping of the built-in kernels.
        tuned_by: A side that is run before all others, since its kernels are tuned in their first call and other sides use them too.
        last: Sides that are made after all others, since they take long.
        left_out: Sides that are not run by default, and why.
    """

    name: str
    title: str
    model: Callable[[int | None], nn.Module]
    inputs: Callable[[nn.Module], Inputs]
    output: Callable[[Any], Tensor]
    training: bool = False
    rewind: Callable[[Inputs], None] = nothing
    calls: int = 1000
    tolerance: float = 0.05
    layer_names: Mapping[str, str] = field(default_factory=dict)
    tuned_by: str | None = None
    last: frozenset[str] = frozenset()
    left_out: Mapping[str, str] = field(default_factory=dict)

    def build(self, device: str, weights: Mapping[str, Tensor] | None = None, layers: int | None = None) -> nn.Module:
        """A model on the device, in bfloat16: of random weights, always the same ones, or over the tensors in `weights`."""
        torch.manual_seed(0)
        with torch.device(device):
            model = self.model(layers)
        if weights is not None:
            model.load_state_dict(weights, assign=True)
            for module in model.modules():
                # A weight that two layers share would be two parameters now.
                getattr(module, "tie_weights", lambda: None)()
        return model.train(self.training)

    def arguments(self, model: nn.Module, device: str) -> Inputs:
        """What a side's model is called with: equal for all, but objects of its own."""
        torch.manual_seed(1)
        with torch.device(device):
            return self.inputs(model)
