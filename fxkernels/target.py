"""What kernels are for: the devices that a mapping names, and the target that one kernel is chosen for.

A device is a device type and, for GPUs, a range of compute capabilities. A target is one device with its capability, a torch version, an
operating system and a CPU.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from packaging.version import Version

DEVICE_TYPES: tuple[str, ...] = ("cpu", "cuda", "rocm", "mps", "xpu", "npu", "neuron", "tpu")
"""The device types that a mapping can name. ROCm has its own, although torch calls it "cuda"."""

_OTHER_NAMES = {"metal": "mps"}  # repositories name the framework, torch names the device


def normalized_device_type(name: str) -> str:
    """Return fxkernels' name of a device type: ``"metal"`` is ``"mps"``."""
    return _OTHER_NAMES.get(name, name)


@dataclass(frozen=True, slots=True)
class CapabilityRange:
    """A range of compute capabilities, both ends included; 9.0 is written 90.

    Raises:
        TypeError: If an end is not an int.
        ValueError: If the range is empty or begins below 0.
    """

    device_type: ClassVar[str]
    min_capability: int
    max_capability: int

    def __post_init__(self) -> None:
        for name in ("min_capability", "max_capability"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} of {type(self).__name__} must be an int such as 90 for capability 9.0, not {value!r}")
        if not 0 <= self.min_capability <= self.max_capability:
            raise ValueError(f"no capability lies in {self!r}; it needs 0 <= min_capability <= max_capability")

    def __contains__(self, capability: int) -> bool:
        return self.min_capability <= capability <= self.max_capability

    def __str__(self) -> str:
        return f"{self.min_capability} to {self.max_capability}"


class CUDAProperties(CapabilityRange):
    """The CUDA compute capabilities that a kernel is meant for.

    Example:
        >>> Device("cuda", CUDAProperties(min_capability=80, max_capability=90))
    """

    __slots__ = ()
    device_type = "cuda"


class ROCMProperties(CapabilityRange):
    """The ROCm compute capabilities that a kernel is meant for; torch reports gfx942 as 9.4, written 94."""

    __slots__ = ()
    device_type = "rocm"


@dataclass(frozen=True, slots=True)
class Device:
    """A device type, narrowed down to a range of compute capabilities where `properties` are given.

    Args:
        type: One of `DEVICE_TYPES`; ``"metal"`` is taken for ``"mps"``.
        properties: `CUDAProperties` for ``"cuda"``, `ROCMProperties` for ``"rocm"``; None means every device of the type.

    Raises:
        ValueError: If the type is unknown or the properties belong to another type.
        TypeError: If `type` is no string or `properties` are of no known kind.

    Example:
        >>> Device("cuda", CUDAProperties(min_capability=80, max_capability=90))
    """

    type: str
    properties: CapabilityRange | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.type, str):
            raise TypeError(f"a device type is a string, one of {_known()}; not {self.type!r}")
        object.__setattr__(self, "type", normalized_device_type(self.type))
        if self.type not in DEVICE_TYPES:
            raise ValueError(f"unknown device type {self.type!r}; known are {_known()}")
        if self.properties is None:
            return
        if not isinstance(self.properties, (CUDAProperties, ROCMProperties)):
            raise TypeError(f"properties of a Device are CUDAProperties, ROCMProperties or None, not {self.properties!r}")
        if self.properties.device_type != self.type:
            kind = type(self.properties)
            raise ValueError(f"{kind.__name__} describe {kind.device_type!r} devices and cannot narrow down {self.type!r}")

    def __str__(self) -> str:
        return self.type if self.properties is None else f"{self.type} (capability {self.properties})"


def device_of(key: object) -> Device:
    """Return the device of a mapping's key: a device type, a `Device`, or the `kernels` package's own Device.

    Raises:
        ValueError: If the device type is unknown, or the key names one device of several (``torch.device("cuda:1")``).
        TypeError: If `key` is none of these.
    """
    if isinstance(key, Device):
        return key
    if isinstance(key, str):
        return Device(key)
    device_type = getattr(key, "type", None)
    if not isinstance(device_type, str):
        raise TypeError(f"{key!r} is not a device; write a device type ({_known()}) or a fxkernels.Device")
    if getattr(key, "index", None) is not None:
        raise ValueError(f"{key!r} names one of several devices; a mapping tells only device types apart: write {device_type!r}")
    return Device(device_type, _properties_of(device_type, getattr(key, "properties", None)))


def _properties_of(device_type: str, properties: object) -> CapabilityRange | None:
    """Return properties as ours: those of another package are converted by their fields."""
    if properties is None or isinstance(properties, CapabilityRange):
        return properties
    kinds = {kind.device_type: kind for kind in (CUDAProperties, ROCMProperties)}
    try:
        return kinds[device_type](properties.min_capability, properties.max_capability)  # type: ignore[attr-defined]
    except (KeyError, AttributeError):
        raise TypeError(f"properties of a {device_type!r} device cannot be {properties!r}") from None


def _known() -> str:
    return ", ".join("mps (or metal)" if name == "mps" else name for name in DEVICE_TYPES)


ACCELERATORS = {"cuda": "cu", "rocm": "rocm", "xpu": "xpu", "npu": "cann"}
"""How build variants spell the accelerator frameworks that come in versions (``cu130``), by device type. Other devices have none."""

_CPU_NAMES = {"arm64": "aarch64", "amd64": "x86_64"}  # build variants use the Linux names on every system
_TORCH = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}")

_FORM = 'a target reads "device[:capability] [torch version] [accelerator] [os-cpu]", e.g. "cuda:sm90 torch2.11 cu130 linux-x86_64"'
_DEVICE_PART = re.compile(r"([a-z]+)(?::(?:(?:sm)?([0-9]{1,4})|([0-9]{1,3})\.([0-9])))?")
_TORCH_PART = re.compile(r"torch([0-9]{1,3})\.([0-9]{1,3})(?:\.[0-9]+)?")
_ACCELERATOR_PART = re.compile(rf"(?:{'|'.join(ACCELERATORS.values())})[0-9]+")


@dataclass(frozen=True, slots=True)
class Target:
    """The machine that kernels are chosen for. Below the public API, only this value is read, not the machine.

    Any device type is allowed, also one that no mapping can name (``"meta"``): its lookups miss without an error.

    Args:
        device: Device type; ``"rocm"`` where torch says "cuda" on AMD hardware.
        capability: Compute capability times ten (90 for 9.0), None where there is none or it is unknown.
        torch: Torch's major and minor version, e.g. ``"2.13"``.
        accelerator: The accelerator framework in the spelling of build variants, e.g. ``"cu130"``; None where there is none or it is
            unknown. That of another device is dropped, so that ``replace(target, device="cpu")`` is a CPU's target.
        os: Operating system, e.g. ``"linux"``.
        cpu: CPU architecture, e.g. ``"x86_64"`` or ``"aarch64"``.

    Raises:
        ValueError: If `torch` is no major and minor version.

    Example:
        >>> str(Target("cuda", 90, "2.11", "cu130", "linux", "x86_64"))
        'cuda:sm90 torch2.11 cu130 linux-x86_64'
    """

    device: str
    capability: int | None
    torch: str
    accelerator: str | None
    os: str
    cpu: str

    def __post_init__(self) -> None:
        if not _TORCH.fullmatch(self.torch):
            raise ValueError(f'torch={self.torch!r} is no torch version of a target; write major and minor, e.g. "2.13"')
        object.__setattr__(self, "device", normalized_device_type(self.device))
        if self.accelerator is not None and not _belongs(self.accelerator, self.device):
            object.__setattr__(self, "accelerator", None)

    @classmethod
    def of_machine(cls, device_type: str) -> Target:
        """Return this machine's target for a device type, the only place where fxkernels looks at the machine.

        The CANN version of an ``"npu"`` is not read: torch does not know it. Only builds without compiled code are found for such a target.

        Args:
            device_type: As torch names it; ``"cuda"`` gives a ``"rocm"`` target when torch was built for ROCm.
        """
        device = normalized_device_type(device_type)
        if device == "cuda" and torch.version.hip is not None:
            device = "rocm"
        return cls(
            device=device,
            capability=_capability(device),
            torch=_this_torch(),
            accelerator=_accelerator(device),
            os=platform.system().lower(),
            cpu=_cpu(platform.machine()),
        )

    @classmethod
    def parse(cls, text: str) -> Target:
        """Return the target that `text` describes, in the form that ``str(target)`` has. It need not be this machine.

        The default torch version is this installation's, and the default system ``linux-x86_64`` (for ``mps`` ``darwin-aarch64``). Without
        a capability, no build is rejected for its architectures. Without an accelerator, every compiled build for a GPU is rejected.

        Args:
            text: The device first, the other parts in any order. A capability is written ``sm90``, ``90`` or ``9.0``.

        Raises:
            ValueError: Naming the part that cannot be read, and the form.

        Example:
            >>> Target.parse("cuda:sm90 torch2.11 cu130")
            Target(device='cuda', capability=90, torch='2.11', accelerator='cu130', os='linux', cpu='x86_64')
        """
        first, *others = text.split() or [""]
        device, capability = _read_device(first, text)
        parts: dict[str, str] = {}
        for part in others:
            kind, value = _read_part(part, device, text)
            if kind in parts:
                raise ValueError(f"target {text!r} names the {kind} twice: {parts[kind]} and {value}")
            parts[kind] = value
        system, _, cpu = parts.get("system", "darwin-aarch64" if device == "mps" else "linux-x86_64").rpartition("-")
        return cls(device, capability, parts.get("torch version") or _this_torch(), parts.get("accelerator"), system, cpu)

    def __str__(self) -> str:
        device = self.device
        if self.capability is not None:
            device += f":{'sm' if device == 'cuda' else ''}{self.capability}"
        accelerator = f" {self.accelerator}" if self.accelerator is not None else ""
        return f"{device} torch{self.torch}{accelerator} {self.os}-{self.cpu}"


def _read_device(part: str, text: str) -> tuple[str, int | None]:
    read = _DEVICE_PART.fullmatch(part)
    if read is None:
        suffix = " A suffix such as the a of sm90a belongs to a build, not to a device." if re.search(r":sm[0-9]+[a-z]$", part) else ""
        raise ValueError(f"target {text!r} does not begin with a device: {part!r} is none.{suffix} {_FORM[0].upper()}{_FORM[1:]}")
    name, capability, major, minor = read.groups()
    device = normalized_device_type(name)
    if device not in DEVICE_TYPES and not _torch_knows(device):
        raise ValueError(f"target {text!r} begins with {name!r}, which is no device type; known are {', '.join(DEVICE_TYPES)}")
    if major is not None:
        capability = f"{major}{minor}"
    return device, int(capability) if capability is not None else None


def _read_part(part: str, device: str, text: str) -> tuple[str, str]:
    """Return which part of a target it is, and its value."""
    if (version := _TORCH_PART.fullmatch(part)) is not None:
        return "torch version", f"{version[1]}.{version[2]}"
    if _ACCELERATOR_PART.fullmatch(part) is not None:
        if not _belongs(part, device):
            example = {"cuda": "cu130", "rocm": "rocm71", "xpu": "xpu20252", "npu": "cann81"}.get(device)
            expected = f"one such as {example}" if example is not None else "none"
            raise ValueError(f"target {text!r} has the accelerator {part!r}; {device} takes {expected}")
        return "accelerator", part
    system, dash, cpu = part.rpartition("-")
    if dash and system and cpu:
        return "system", f"{system}-{_cpu(cpu)}"
    raise ValueError(f"target {text!r} has a part that cannot be read: {part!r}; {_FORM}")


def _belongs(accelerator: str, device: str) -> bool:
    framework = ACCELERATORS.get(device)
    return framework is not None and re.fullmatch(rf"{framework}[0-9]+", accelerator) is not None


def _torch_knows(device: str) -> bool:
    try:
        torch.device(device)
    except RuntimeError:
        return False
    return True


def _this_torch() -> str:
    release = Version(torch.__version__)
    return f"{release.major}.{release.minor}"


def _cpu(machine: str) -> str:
    name = machine.lower()
    return _CPU_NAMES.get(name, name)


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
