"""One call of one side's model, made again and again: its time, its memory, what it computes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from .apart import in_place
from .sides import Side
from .workload import Workload


@dataclass(frozen=True)
class Step:
    """A side with what it is called with."""

    side: Side
    workload: Workload
    inputs: dict[str, Any]
    device: str

    def __call__(self) -> None:
        """Run the model once; in training, backward too, and take the gradients away."""
        self.run()
        if self.workload.training:
            self.side.model.zero_grad(set_to_none=True)

    def run(self) -> Tensor:
        """The output. In training the gradients are there then."""
        if self.side.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        with torch.set_grad_enabled(self.workload.training):
            output = self.workload.output(self.side.run(**self.inputs))
        if self.workload.training:
            output.backward()
        return output.detach()

    def outcome(self) -> list[Tensor]:
        """What is compared: the output, and in training every gradient. Copies, since the memory may be that of a CUDA graph."""
        self.workload.rewind(self.inputs)
        found = [self.run().clone()]
        if self.workload.training:
            found += [parameter.grad.clone() for parameter in self.side.model.parameters() if parameter.grad is not None]
            self.side.model.zero_grad(set_to_none=True)
        return found

    def batch(self, calls: int) -> float:
        """The milliseconds of a call, of so many in a row, after some that are not timed.

        Raises:
            RuntimeError: If something was compiled in one that is.
        """
        self.workload.rewind(self.inputs)
        with in_place(self.side.changes):
            self()
            self.wait()
            compiled = counters["stats"]["unique_graphs"]
            milliseconds = self.by_events(calls) if self.device == "cuda" else self.by_clock(calls)
        if counters["stats"]["unique_graphs"] != compiled:
            raise RuntimeError("it was compiled again while it was timed")
        return milliseconds / calls

    def by_events(self, calls: int) -> float:
        """The milliseconds between the ends of two calls, with so many to the second one."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # An idle GPU would wait for the host's first call, and the fewer calls a batch has, the more each would have of that.
        self()
        begin.record()
        for _ in range(calls):
            self()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    def by_clock(self, calls: int) -> float:
        """The milliseconds that so many calls take."""
        start = time.perf_counter()
        for _ in range(calls):
            self()
        return (time.perf_counter() - start) * 1e3

    def wait(self) -> None:
        """Let a GPU finish."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def peak_bytes(step: Step) -> int:
    """The most that one step on a GPU has allocated at once, over what was there before, and the weights."""
    step.wait()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    step.wait()
    weights = sum(parameter.numel() * parameter.element_size() for parameter in step.side.model.parameters())
    return torch.cuda.max_memory_allocated() - before + weights
