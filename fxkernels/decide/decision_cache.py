"""What deciding remembers from graph to graph."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from ..admission import Admitted
from ..fuel import Fuel
from ..hub import CacheOnlyRepository, LockOnlyRepository
from ..kernels.loader import KernelLoader
from ..kernels.lowering.choose import Chosen
from ..options import Options
from ..passes.miss import Miss
from ..selection import Budget
from ..target import Target

_log = logging.getLogger("fxkernels")


@dataclass
class DecisionCache:
    """Targets, loaded kernels, and what they have shown. One for all graphs of a backend.

    Args:
        target_of: From a device type to the target.
        triton: Triton's version, of which kernels may demand something; None if it is not installed.
        loader: Loads kernels.
        fuel: How many calls may run kernels.
        budget: What may be spent on timing kernels.
        targets: What kernels were chosen for, by device type.
        admitted: By kernel and form of call, how the kernel was admitted, or why it was not; None where only a probe could tell.
        chosen: By kernel and form of call, how the kernel enters the graph, or why it cannot; a sentence where only a run could tell.
        misfits: What of a tuned plan did not fit, as sentences.
    """

    target_of: Callable[[str], Target]
    triton: str | None = None
    loader: KernelLoader = field(default_factory=KernelLoader)
    fuel: Fuel = field(default_factory=Fuel)
    budget: Budget = field(default_factory=lambda: Budget(0.0))
    targets: dict[str, Target] = field(default_factory=dict)
    admitted: dict[Hashable, Admitted | Miss | None] = field(default_factory=dict)
    chosen: dict[Hashable, Chosen | Miss | str] = field(default_factory=dict)
    misfits: dict[str, None] = field(default_factory=dict)

    @staticmethod
    def of(options: Options, triton: str | None) -> DecisionCache:
        """Return an empty one for this machine, or for the target that the options name."""
        target = options.target
        target_of = Target.of_machine if target is None else lambda device: target
        return DecisionCache(target_of, triton, _loader(options), Fuel(options.fuel), Budget(options.select_budget))

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


def _loader(options: Options) -> KernelLoader:
    """A loader of kernels: through the lock, where there is one; of what is cached, where nothing is carried out."""
    locked = functools.partial(LockOnlyRepository, lock=options.lockfile) if options.lockfile is not None else None
    if options.edit:
        return KernelLoader(locked)
    return KernelLoader(lambda repository: CacheOnlyRepository(locked(repository) if locked is not None else repository))
