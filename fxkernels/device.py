"""The devices that a kernel is meant for: a device type and, for GPUs, a range of compute capabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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
