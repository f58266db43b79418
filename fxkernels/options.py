"""What can be asked of the backend, checked as soon as it is said."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

from .admission import Verify, verification
from .candidates import Chooser
from .capture import _torch
from .constraints.gate import OnDepends
from .errors import KernelizeFallback
from .fuel import Fuel, fuel_in_environment
from .fusion import Fusion
from .hub import CacheOnlyRepository, Lock, LockOnlyRepository, lock_of
from .kernels.loader import KernelLoader
from .kernels.lowering.lowering import BACKWARDS, Backward
from .mapping import KernelMapping
from .mode import Mode
from .selection import SELECTS, Budget, Inner, Select
from .selection.tuned_plan import TunedPlan, plan_of
from .target import Device, Target


@dataclass(frozen=True)
class Options:
    """What can be asked of the backend. See `hubkernels` for the public ones.

    `device`, `declared` and `capture` belong to `kernelize`: restrict to a device type, take only kernels that declare support for
    torch.compile, and how the model became what Dynamo captures.
    `edit` and `target` belong to `explain`: whether the plan is carried out, and what kernels are chosen for if it is not this machine.
    """

    inner: str | Callable[..., Any] = "inductor"
    inner_mode: str | None = None
    inner_options: dict[str, Any] | None = None
    mapping: KernelMapping | None = None
    kernel_mode: Mode | None = None
    use_fallback: KernelizeFallback = KernelizeFallback.DEFAULT
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    lockfile: Lock | None = None
    opaque: bool = True
    backward: Backward = "fallback"
    verify: Verify = "probe"
    on_depends: OnDepends = "guard"
    device: str | None = None
    declared: bool = False
    edit: bool = True
    target: Target | None = None
    fuel: int | None = None
    capture: str = "dynamo"
    counters: bool = False
    select: Select | None = None
    select_budget: float = 120.0
    plan: TunedPlan | None = None
    fusions: Mapping[str, type[Fusion]] | None = None

    @property
    def compiled(self) -> bool:
        """Whether the inner compiler traces what it gets, instead of running it as it is."""
        return not _torch.is_eager(self.inner)

    def inner_in(self, mode: str | None) -> Inner:
        """The inner compiler, with the mode that `torch.compile` was given where there is one."""
        return Inner(self.inner, mode or self.inner_mode, self.inner_options)

    def loader(self) -> KernelLoader:
        """Return a new loader of kernels: through the lock, where there is one; of what is cached, where nothing is carried out."""
        locked = functools.partial(LockOnlyRepository, lock=self.lockfile) if self.lockfile is not None else None
        if self.edit:
            return KernelLoader(locked)
        return KernelLoader(lambda repository: CacheOnlyRepository(locked(repository) if locked is not None else repository))

    def chooser(self) -> Chooser:
        """Return a new memory of kernels that are chosen for this machine, or for the target that was asked for."""
        target = self.target
        target_of = Target.of_machine if target is None else lambda device: target
        return Chooser(target_of, self.loader(), fuel=Fuel(self.fuel), budget=Budget(self.select_budget))


PUBLIC_OPTIONS = (
    *("inner", "inner_mode", "inner_options", "mapping", "kernel_mode", "use_fallback", "only", "exclude", "lockfile"),
    *("opaque", "backward", "verify", "on_depends", "counters", "select", "select_budget", "plan"),
)


def options_of(given: dict[str, Any]) -> Options:
    """Return the options that a user's names and values stand for.

    Raises:
        ValueError: For an unknown name, listing those that exist.
        TypeError: For a value of the wrong type.
    """
    unknown = sorted(set(given) - set(PUBLIC_OPTIONS) - {f.name for f in fields(Options)})
    if unknown:
        raise ValueError(
            f"unknown option {', '.join(map(repr, unknown))} of the hubkernels backend; its options are: {', '.join(PUBLIC_OPTIONS)}"
        )
    values = dict(given)
    if values.get("mapping") is not None:
        values["mapping"] = KernelMapping.of(values["mapping"])
        if values.get("fusions") is not None:  # the others are never looked for, and need not be picklable
            values["fusions"] = {name: fusion for name, fusion in values["fusions"].items() if name in values["mapping"]}
    if values.get("kernel_mode") is not None:
        values["kernel_mode"] = _kernel_mode(values["kernel_mode"])
    if values.get("device") is not None:
        values["device"] = Device(values["device"]).type
    if "use_fallback" in values:
        values["use_fallback"] = KernelizeFallback.of(values["use_fallback"])
    if values.get("lockfile") is not None:
        values["lockfile"] = lock_of(values["lockfile"])
    for name in ("only", "exclude"):
        globs = values.get(name, ())
        values[name] = (globs,) if isinstance(globs, str) else tuple(globs)
    if not isinstance(values.get("opaque", False), bool):
        raise TypeError(f"opaque= is True or False, not {values['opaque']!r}")
    if values.get("backward", "fallback") not in BACKWARDS:
        raise ValueError(f"backward= is {' or '.join(map(repr, BACKWARDS))}, not {values['backward']!r}")
    values["verify"] = verification(values.get("verify"))
    if values.get("fuel") is None:
        values["fuel"] = fuel_in_environment()
    if not isinstance(values.get("counters", False), bool):
        raise TypeError(f"counters= is True or False, not {values['counters']!r}")
    if values.get("on_depends", "guard") not in get_args(OnDepends):
        raise ValueError(f"on_depends= is {' or '.join(map(repr, get_args(OnDepends)))}, not {values['on_depends']!r}")
    if values.get("select") not in (None, *SELECTS):
        raise ValueError(f"select= is {' or '.join(map(repr, SELECTS))}, not {values['select']!r}")
    if values.get("plan") is not None:
        values["plan"] = plan_of(values["plan"])
        if values.get("select") is not None:
            raise ValueError("plan= says which kernel runs where, and select= who chooses: give one of the two")
    budget = values.get("select_budget", 0)
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not budget >= 0:
        raise ValueError(f"select_budget= is a number of seconds, not {budget!r}")
    if not (isinstance(values.get("inner", ""), str) or callable(values["inner"])):
        raise TypeError(f"inner= is the name of a backend or a callable, not {values['inner']!r}")
    return Options(**values)


def _kernel_mode(mode: Any) -> Mode:
    if not isinstance(mode, Mode):
        raise TypeError(f"a kernel mode is a Mode such as Mode.INFERENCE, not {mode!r}")
    if Mode.FALLBACK in mode or not (Mode.INFERENCE in mode or Mode.TRAINING in mode):
        raise ValueError(f"kernels are chosen for Mode.INFERENCE or Mode.TRAINING, not {mode!r}; FALLBACK stands in mappings only")
    return mode
