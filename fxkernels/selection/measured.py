"""What timing has found, and who wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

MARGIN = 0.03
"""By what part of the compiler's time a kernel has to be faster. Less than that is neither worth a kernel nor told from noise: two
measurements of the same code differ by about one per cent."""

LEAST = 0.3
"""How many microseconds of the device's time it has to save at least: the measured times of very short calls are no better than that."""

HOST_MARGIN = 0.05
"""The margin where the host's time is in what was measured, which scatters more than the device's; and by what part the host may be busier
with a kernel than either side of the original was."""


@dataclass(frozen=True, slots=True)
class Side:
    """The times of one side, in microseconds, one for each round. Rounds of all sides alternate.

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
class Measured:
    """The times of a contest.

    Args:
        original: Those of the compiler's own code.
        kernels: Those of each kernel, by the name under which the contest has it.
        replays: Whether what wins is run by replaying CUDA graphs, so that the host's time does not count.
        failed: Why a kernel could not be timed, by name.
    """

    original: Side
    kernels: Mapping[str, Side]
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

        It has to save the device more than the margin, in nearly every round, and must not make the host the one who is waited for: that
        may be as busy as the original's host or device was.
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
        kernels = {name: _as_dict(side) for name, side in self.kernels.items()}
        return {"original": _as_dict(self.original), "kernels": kernels, "failed": dict(self.failed)}

    @staticmethod
    def from_dict(content: Mapping[str, Any], replays: bool) -> Measured:
        """Return what `as_dict` wrote.

        Args:
            content: The times.
            replays: As for the class: whoever reads them may run what wins in another way than whoever took them.

        Raises:
            ValueError: If it is something else.
        """
        try:
            kernels = {str(name): _side(side) for name, side in content["kernels"].items()}
            failed = {str(name): str(reason) for name, reason in content["failed"].items()}
            found = Measured(_side(content["original"]), kernels, replays, failed)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"these are no times of a contest: {error!r}") from error
        rounds = len(found.original.device)
        if rounds == 0 or any(len(side.device) != rounds for side in kernels.values()):
            raise ValueError("these are no times of a contest: its sides were not timed equally often")
        return found


def _as_dict(side: Side) -> dict[str, list[float]]:
    return {"device": [_rounded(t) for t in side.device], "host": [_rounded(t) for t in side.host]}


def _side(content: Mapping[str, Any]) -> Side:
    return Side(tuple(_positive(t) for t in content["device"]), tuple(_positive(t) for t in content["host"]))


def _positive(time: Any) -> float:
    if not float(time) > 0:
        raise ValueError(f"{time!r} is no time")
    return float(time)


def _rounded(time: float) -> float:
    return float(f"{time:.4g}")


def _short(time: float) -> str:
    return f"{time:.3g}" if time < 100 else f"{time:,.0f}"
