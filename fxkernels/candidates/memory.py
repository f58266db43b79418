"""What choosing kernels remembers from graph to graph."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from ..admission import Admitted
from ..fuel import Fuel
from ..kernels.loader import KernelLoader
from ..kernels.lowering.choose import Chosen
from ..passes.gate import Gate
from ..selection import Budget
from ..target import Target

_log = logging.getLogger("fxkernels")


@dataclass(frozen=True, slots=True)
class Shown:
    """What a kernel has shown for one form of call, and how it enters the graph.

    Args:
        gates: The gates that needed it to run or to be tried: admission and lowering.
        chosen: How it enters the graph; None if a gate failed or nobody knows.
        admitted: How it was admitted; None likewise.
    """

    gates: tuple[Gate, ...]
    chosen: Chosen | None = None
    admitted: Admitted | None = None


@dataclass
class Chooser:
    """Targets, loaded kernels, and what they have shown. One for all graphs of a backend.

    Args:
        target_of: From a device type to the target.
        budget: What may be spent on timing kernels.
        misfits: What of a tuned plan did not fit, as sentences.
    """

    target_of: Callable[[str], Target]
    loader: KernelLoader = field(default_factory=KernelLoader)
    fuel: Fuel = field(default_factory=Fuel)
    targets: dict[str, Target] = field(default_factory=dict)
    shown: dict[Hashable, Shown] = field(default_factory=dict)
    budget: Budget = field(default_factory=lambda: Budget(0.0))
    misfits: dict[str, None] = field(default_factory=dict)

    def misfit(self, sentence: str) -> None:
        """Remember what of a tuned plan does not fit, and warn of it once."""
        if sentence not in self.misfits:
            self.misfits[sentence] = None
            _log.warning("%s", sentence)

    def target(self, device: str) -> Target:
        """Return the target for a device type."""
        if device not in self.targets:
            self.targets[device] = self.target_of(device)
        return self.targets[device]
