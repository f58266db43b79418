"""What the user asked for, as far as choosing kernels goes."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..admission import Verify
from ..constraints.gate import OnDepends
from ..kernels.lowering.lowering import Backward
from ..mapping import KernelMapping
from ..mode import Mode
from ..selection import Inner, Select
from ..selection.tuned_plan import TunedPlan


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Args:
        mapping: The mapping to choose from.
        device: Restricts to calls on this device type.
        mode: Overrides the layers' training flags when the mapping is consulted.
        compiled: Whether the rewritten graph goes to a compiler, which must be able to trace the kernels.
        declared: Whether only kernels that say that they support torch.compile are taken.
        opaque: Whether a kernel that the compiler cannot trace may be an operator of its own.
        backward: What a kernel without a backward means in training mode: the original layer, or its gradient only.
        verify: How much a kernel has to show before it is used.
        on_depends: Where what a kernel demands depends on dynamic sizes: whether that is made a guard of the graph, or is a miss.
        triton: Triton's version, of which kernels may demand something; None if it is not installed.
        only: Globs of module paths; where given, other calls are excluded.
        exclude: Globs of module paths that are excluded.
        select: Who chooses between the kernels that fit and the original layer; None leaves that to the inner compiler and the device.
        inner: The inner compiler, with which kernels are timed.
        plan: A tuned plan, which says instead what runs where.
        runs: Whether gates may run kernels and fetch files. Where they may not, what only that could answer is unknown.
        elsewhere: Whether the target is not this machine, so that its kernels may not even be importable here.
    """

    mapping: KernelMapping
    device: str | None = None
    mode: Mode | None = None
    compiled: bool = False
    declared: bool = False
    opaque: bool = False
    backward: Backward = "fallback"
    verify: Verify = "probe"
    on_depends: OnDepends = "guard"
    triton: str | None = None
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    select: Select | None = None
    inner: Inner = field(default_factory=Inner)
    plan: TunedPlan | None = None
    runs: bool = True
    elsewhere: bool = False

    def measures(self, device: str) -> bool:
        """Whether kernels for calls on this type of device are chosen by their times. By default where Inductor compiles for a GPU: its own
        code is as fast as a kernel often enough, which that of other compilers is not.
        """
        if self.plan is not None:
            return False
        if self.select is not None:
            return self.select == "measured"
        return device == "cuda" and self.compiled and self.inner.is_inductor
