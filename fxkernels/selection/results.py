"""The times of a contest, which kernel wins it, and for which machines they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch

from ..passes.gate import Gate
from ..versions import installed_versions

SELECTION = Gate("selection", "selection", ("not_profitable", "crash"))
"""Is the kernel worth it, beside the compiler's own code and the other kernels that fit?"""

MARGIN = 0.03
"""Minimum speed-up, as a fraction of the compiler's time; smaller differences are noise: two measurements of the same code differ by about
one per cent."""

LEAST = 0.3
"""How many microseconds of the device's time it has to save at least: the measured times of very short calls are no better than that."""

HOST_MARGIN = 0.05
"""The margin where the host's time is in what was measured, which scatters more than the device's; and by what part the host may be busier
with a kernel than either side of the original was."""


@dataclass(frozen=True, slots=True)
class Times:
    """How long one contestant took, in microseconds, once for each round. Rounds of all contestants alternate.

    Args:
        device: How long the device worked.
        host: How long the host took to ask for it; empty where that is in the device's times, as on CPUs.
    """

    device: tuple[float, ...]
    host: tuple[float, ...] = ()

    @property
    def microseconds(self) -> float:
        """The median of the device's times."""
        return median(self.device)

    @property
    def of_host(self) -> float:
        """The median of the host's times; 0 where they are in the device's."""
        return median(self.host) if self.host else 0.0


@dataclass(frozen=True, slots=True)
class Results:
    """The times of a contest.

    Args:
        original: Those of the compiler's own code.
        kernels: Those of each kernel, by the name under which the contest has it.
        replays: Whether what wins is run by replaying CUDA graphs, so that the host's time does not count.
        failed: Why a kernel could not be timed, by name.
    """

    original: Times
    kernels: Mapping[str, Times]
    replays: bool
    failed: Mapping[str, str]

    @property
    def winner(self) -> str | None:
        """The kernel that is taken: of those that beat the compiler's own code, the fastest. None leaves the call to the compiler."""
        better = [name for name in self.kernels if self.beats(name)]
        return min(better, key=lambda name: self.kernels[name].microseconds, default=None)

    def beats(self, name: str) -> bool:
        """Whether nothing speaks against a kernel; see `objection`."""
        return not self.objection(name)

    def objection(self, name: str) -> str:
        """Return what speaks against taking a kernel, as a phrase; empty if nothing does.

        It has to save the device more than the margin, in nearly every round, and the device must not wait for the host: that may be as
        busy as the original's host or device was.
        """
        kernel, original = self.kernels[name], self.original
        margin = MARGIN if kernel.host else HOST_MARGIN
        if self.ratio(name) <= 1:
            return "no faster"
        if self.ratio(name) < 1 + margin:
            return f"less than the {margin:.0%} that make a kernel worth it"
        if original.microseconds - kernel.microseconds < LEAST:
            return f"less than the {LEAST} us that can be told from noise"
        ratios = [before / after for before, after in zip(original.device, kernel.device, strict=True)]
        if len(ratios) > 1 and quantiles(ratios, n=4)[0] <= 1:
            return "but not faster in a quarter of the rounds"
        if not self.replays and kernel.of_host > (1 + HOST_MARGIN) * max(original.microseconds, original.of_host):
            return f"but the host is busy for {_short(kernel.of_host)} us instead of {_short(original.of_host)} us"
        return ""

    def ratio(self, name: str) -> float:
        """How many times as fast as the compiler's own code a kernel is on the device."""
        return self.original.microseconds / self.kernels[name].microseconds

    def told(self, name: str) -> str:
        """What was measured of a kernel, as a phrase."""
        kernel, original, objection = self.kernels[name], self.original, self.objection(name)
        text = f"{_short(kernel.microseconds)} us instead of {_short(original.microseconds)} us, {self.ratio(name):.2f}x"
        return f"{text}, {objection}" if objection else text

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        kernels = {name: _as_dict(times) for name, times in self.kernels.items()}
        return {"original": _as_dict(self.original), "kernels": kernels, "failed": dict(self.failed)}

    @staticmethod
    def from_dict(content: Mapping[str, Any], replays: bool) -> Results:
        """Return what `as_dict` wrote.

        Args:
            content: The times.
            replays: As for the class: the compiler that reads them may replay CUDA graphs where the one that was timed did not.

        Raises:
            ValueError: If it is something else.
        """
        try:
            kernels = {str(name): _times(times) for name, times in content["kernels"].items()}
            failed = {str(name): str(reason) for name, reason in content["failed"].items()}
            found = Results(_times(content["original"]), kernels, replays, failed)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"these are no times of a contest: {error!r}") from error
        rounds = len(found.original.device)
        if rounds == 0 or any(len(times.device) != rounds for times in kernels.values()):
            raise ValueError("these are no times of a contest: its contestants were not timed equally often")
        return found


def _as_dict(times: Times) -> dict[str, list[float]]:
    return {"device": [_rounded(t) for t in times.device], "host": [_rounded(t) for t in times.host]}


def _times(content: Mapping[str, Any]) -> Times:
    return Times(tuple(_positive(t) for t in content["device"]), tuple(_positive(t) for t in content["host"]))


def _positive(time: Any) -> float:
    if not float(time) > 0:
        raise ValueError(f"{time!r} is no time")
    return float(time)


def _rounded(time: float) -> float:
    return float(f"{time:.4g}")


def _short(time: float) -> str:
    return f"{time:.3g}" if time < 100 else f"{time:,.0f}"


def device_name(device: torch.device) -> str:
    """Return what kind of device it is: times hold for its kind, not for all of its capability."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def versions_of_compilers() -> dict[str, str]:
    """Return the versions of the libraries on which times depend, where they are installed."""
    return {name: version for name, version in installed_versions() if name in ("torch", "triton")}
