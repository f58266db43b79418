"""What kernels are chosen for: a device with its capability, a torch version, an operating system and a CPU, as one value."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch
from packaging.version import Version

from .device import normalized_device_type

_CPU_NAMES = {"arm64": "aarch64", "amd64": "x86_64"}  # build variants use the Linux names on every system


@dataclass(frozen=True, slots=True)
class Target:
    """What kernels are chosen for. Nothing below the public API reads the machine; it is handed this value.

    Any device type is allowed, also one that no mapping can name (``"meta"``): its lookups miss, they do not fail.

    Args:
        device: Device type; ``"rocm"`` where torch says "cuda" on AMD hardware.
        capability: Compute capability times ten (90 for 9.0), None where there is none or it is unknown.
        torch: Torch's major and minor version, e.g. ``"2.13"``.
        accelerator: The accelerator framework in the spelling of build variants, e.g. ``"cu130"``; None for a CPU.
        os: Operating system, e.g. ``"linux"``.
        cpu: CPU architecture, e.g. ``"x86_64"`` or ``"aarch64"``.

    Example:
        >>> str(Target("cuda", 90, "2.11", "cu130", "linux", "x86_64"))
        'cuda:sm90 torch2.11 linux-x86_64'
    """

    device: str
    capability: int | None
    torch: str
    accelerator: str | None
    os: str
    cpu: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", normalized_device_type(self.device))

    @classmethod
    def of_machine(cls, device_type: str) -> Target:
        """Return this machine's target for a device type, the only place where fxkernels looks at the machine.

        Args:
            device_type: As torch names it; ``"cuda"`` gives a ``"rocm"`` target when torch was built for ROCm.
        """
        device = normalized_device_type(device_type)
        if device == "cuda" and torch.version.hip is not None:
            device = "rocm"
        release = Version(torch.__version__)
        cpu = platform.machine().lower()
        return cls(
            device=device,
            capability=_capability(device),
            torch=f"{release.major}.{release.minor}",
            accelerator=_accelerator(device),
            os=platform.system().lower(),
            cpu=_CPU_NAMES.get(cpu, cpu),
        )

    def __str__(self) -> str:
        device = self.device
        if self.capability is not None:
            device += f":{'sm' if device == 'cuda' else ''}{self.capability}"
        return f"{device} torch{self.torch} {self.os}-{self.cpu}"


def _capability(device: str) -> int | None:
    if device not in ("cuda", "rocm") or not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return major * 10 + minor


def _accelerator(device: str) -> str | None:
    if device == "cuda" and torch.version.cuda is not None:
        return "cu" + _digits(torch.version.cuda)
    if device == "rocm" and torch.version.hip is not None:
        return "rocm" + _digits(torch.version.hip)
    xpu: str | None = getattr(torch.version, "xpu", None)
    if device == "xpu" and xpu is not None:
        # torch.version.xpu is the oneAPI release as yyyymmpp; variants spell 2025.2 as xpu20252.
        return f"xpu{xpu[:4]}{int(xpu[4:6])}"
    return None


def _digits(version: str) -> str:
    """Major and minor of a version without the dot: ``"13.0"`` and ``"13.0.48"`` are both ``"130"``."""
    major, minor = version.split(".")[:2]
    return major + minor
