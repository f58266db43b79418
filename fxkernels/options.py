"""What can be asked of the backend, checked as soon as it is said. A new option is one field."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args

from .admission import Verify, verification
from .capture import _torch
from .constraints.gate import OnDepends
from .errors import KernelizeFallback
from .fuel import fuel_in_environment
from .fusion import Fusion
from .hub import Lock, lock_of
from .kernels.lowering.lowering import BACKWARDS, Backward
from .mapping import KernelMapping
from .mode import Mode
from .selection import SELECTS, Inner, Select
from .selection.tuned_plan import TunedPlan, plan_of
from .target import Device, Target

Read = Callable[[str, Any], Any]
"""From an option's name and what the user has given for it to its value; raises `ValueError` or `TypeError`."""


def _public(default: Any, read: Read = lambda name, given: given) -> Any:
    """An option of `hubkernels`, with what reads it."""
    return field(default=default, metadata={"public": True, "read": read})


def _internal(default: Any, read: Read = lambda name, given: given) -> Any:
    """An option that only `kernelize`, `explain` or the tools have, with what reads it."""
    return field(default=default, metadata={"public": False, "read": read})


def _optional(read: Callable[[Any], Any]) -> Read:
    return lambda name, given: read(given) if given is not None else None


def _one_of(*values: Any) -> Read:
    said = [value for value in values if value is not None]

    def read(name: str, given: Any) -> Any:
        if given not in values:
            raise ValueError(f"{name}= is {' or '.join(map(repr, said))}, not {given!r}")
        return given

    return read


def _flag(name: str, given: Any) -> bool:
    if not isinstance(given, bool):
        raise TypeError(f"{name}= is True or False, not {given!r}")
    return given


def _names(name: str, given: Any) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else (given,)
    if not all(isinstance(each, str) for each in names):
        raise TypeError(f"{name}= is a string or several, not {given!r}")
    return names


def _seconds(name: str, given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not given >= 0:
        raise ValueError(f"{name}= is a number of seconds, not {given!r}")
    return given


def _compiler(name: str, given: Any) -> Any:
    if not (isinstance(given, str) or callable(given)):
        raise TypeError(f"{name}= is the name of a backend or a callable, not {given!r}")
    return given


def _kernel_mode(mode: Any) -> Mode:
    if not isinstance(mode, Mode):
        raise TypeError(f"a kernel mode is a Mode such as Mode.INFERENCE, not {mode!r}")
    if Mode.FALLBACK in mode or not (Mode.INFERENCE in mode or Mode.TRAINING in mode):
        raise ValueError(f"kernels are chosen for Mode.INFERENCE or Mode.TRAINING, not {mode!r}; FALLBACK stands in mappings only")
    return mode


@dataclass(frozen=True)
class Options:
    """What can be asked of the backend, and of `kernelize` and `explain`, which make one. `hubkernels` says what the public ones mean.

    `device`, `declared` and `capture` belong to `kernelize`: restrict to a device type, take only kernels that declare support for
    torch.compile, and how the model became what Dynamo captures.
    `edit` and `target` belong to `explain`: whether kernels are run, files fetched and the plan carried out, and what kernels are chosen
    for if it is not this machine.
    """

    inner: str | Callable[..., Any] = _public("inductor", _compiler)
    inner_mode: str | None = _public(None)
    inner_options: dict[str, Any] | None = _public(None)
    mapping: KernelMapping | None = _public(None, _optional(KernelMapping.of))
    kernel_mode: Mode | None = _public(None, _optional(_kernel_mode))
    use_fallback: KernelizeFallback = _public(KernelizeFallback.DEFAULT, lambda name, given: KernelizeFallback.of(given))
    only: tuple[str, ...] = _public((), _names)
    exclude: tuple[str, ...] = _public((), _names)
    lockfile: Lock | None = _public(None, _optional(lock_of))
    opaque: bool = _public(True, _flag)
    backward: Backward = _public("fallback", _one_of(*BACKWARDS))
    verify: Verify = _public(None, lambda name, given: verification(given))
    on_depends: OnDepends = _public("guard", _one_of(*get_args(OnDepends)))
    counters: bool = _public(False, _flag)
    select: Select | None = _public(None, _one_of(None, *SELECTS))
    select_budget: float = _public(120.0, _seconds)
    plan: TunedPlan | None = _public(None, _optional(plan_of))
    drop_outputs: tuple[str, ...] = _public((), _names)
    device: str | None = _internal(None, _optional(lambda given: Device(given).type))
    declared: bool = _internal(False)
    edit: bool = _internal(True)
    target: Target | None = _internal(None)
    fuel: int | None = _internal(None, lambda name, given: fuel_in_environment() if given is None else given)
    capture: str = _internal("dynamo")
    fusions: Mapping[str, type[Fusion]] | None = _internal(None)

    @classmethod
    def of(cls, **given: Any) -> Options:
        """Return the options that a user's names and values stand for.

        Raises:
            ValueError: For an unknown name, listing those that exist, a value that makes no sense, or two that contradict each other.
            TypeError: For a value of the wrong type.
        """
        unknown = sorted(set(given) - {option.name for option in fields(cls)})
        if unknown:
            public = ", ".join(option.name for option in fields(cls) if option.metadata["public"])
            raise ValueError(f"unknown option {', '.join(map(repr, unknown))} of the hubkernels backend; its options are: {public}")
        read = {option.name: option.metadata["read"](option.name, given.get(option.name, option.default)) for option in fields(cls)}
        if read["plan"] is not None and read["select"] is not None:
            raise ValueError("plan= says which kernel runs where, and select= who chooses: give one of the two")
        mapping, fusions = read["mapping"], read["fusions"]
        if mapping is not None and (lost := [name for name in read["drop_outputs"] if name not in mapping]):
            known = ", ".join(mapping.layer_names) or "nothing"
            raise ValueError(
                f"drop_outputs= has {lost[0]!r}, to which no kernel is mapped, so it is not looked for; mapped are: {known}\n"
                "  It takes layer names of fusions, not names of outputs. For the logits beside a loss, map "
                '{"linear_cross_entropy": {"cpu": fxkernels.builtin.builtin_repository("linear_cross_entropy")}} and name that.'
            )
        if mapping is not None and fusions is not None:  # the others are never looked for, and need not be picklable
            read["fusions"] = {name: fusion for name, fusion in fusions.items() if name in mapping}
        return cls(**read)

    @property
    def compiled(self) -> bool:
        """Whether the inner compiler traces what it gets, instead of running it as it is."""
        return not _torch.is_eager(self.inner)

    def in_mode(self, mode: str | None) -> Options:
        """Return the same with the mode that `torch.compile` was given for the inner compiler, if it was given one."""
        return replace(self, inner_mode=mode or self.inner_mode)

    @property
    def compiler(self) -> Inner:
        """The inner compiler."""
        return Inner(self.inner, self.inner_mode, self.inner_options)

    def measures(self, device: str) -> bool:
        """Whether kernels for calls on this type of device are chosen by their times. By default where Inductor compiles for a GPU: its own
        code is as fast as a kernel often enough, which that of other compilers is not.
        """
        if self.plan is not None:
            return False
        if self.select is not None:
            return self.select == "measured"
        return device == "cuda" and self.compiled and self.compiler.is_inductor
