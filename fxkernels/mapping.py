"""Which kernel repository implements a layer name, per device and mode: the mapping as a value, and the one that is in force."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from .mode import Mode, mapping_mode, preference
from .passes.gate import Gate
from .passes.miss import Miss
from .target import Device, Target, device_of

MAPPING = Gate("mapping", "form", ("no_mapping", "no_device", "capability", "no_mode"))
"""Which kernels does the mapping have for the layer name, the device and the mode?"""

_NO_MAPPING = "no kernel is mapped to layer name {layer!r}; mapped are: {mapped}"
_NO_DEVICE = "no kernel is mapped to layer name {layer!r} for {device}, only for: {mapped}"
_CAPABILITY = "the kernels mapped to layer name {layer!r} are for {device} capability {mapped}; this device has {capability}"
_NO_MODE = "no kernel mapped to layer name {layer!r} for {device} may serve mode {mode}, only: {mapped}"


@runtime_checkable
class Repository(Protocol):
    """Anything whose ``load()`` returns a kernel layer, a class derived from ``nn.Module``."""

    def load(self) -> Any:
        """Return the kernel layer's class."""


MappingLike = Mapping[str, Mapping[Any, Any]]
"""What users write: layer name -> device -> repository, or layer name -> device -> mode -> repository."""


@dataclass(frozen=True, slots=True)
class MappingEntry:
    """One repository of a mapping, with the mode and the device that it is mapped for."""

    repository: Repository
    mode: Mode
    device: Device


class KernelMapping:
    """An immutable mapping from layer name, device and mode to a kernel repository.

    Every combination of the three has its own place: mapping a training kernel leaves the inference kernel where it is. Make one with `of`.
    """

    def __init__(self, layers: Mapping[str, Mapping[tuple[Device, Mode], Repository]]) -> None:
        self._layers = {name: dict(places) for name, places in layers.items()}

    @classmethod
    def of(cls, mapping: MappingLike | KernelMapping) -> KernelMapping:
        """Return the mapping that a user's dict describes.

        Args:
            mapping: Layer name -> device -> repository (serves every mode, as `Mode.FALLBACK`), or -> dict from mode to repository.

        Raises:
            ValueError: For an unknown device type, a mode in which no model can run, an empty layer name, or one place given twice.
            TypeError: For anything that has the wrong type; the message says where.

        Example:
            >>> KernelMapping.of({"RMSNorm": {"cpu": LocalLayerRepository("norms", layer_name="RMSNorm")}})
        """
        if isinstance(mapping, KernelMapping):
            return mapping
        if not isinstance(mapping, Mapping):
            raise TypeError(f"a kernel mapping is a dict such as {{'RMSNorm': {{'cuda': repository}}}}, not {mapping!r}")
        return cls({_layer_name(name): _places(f"mapping[{name!r}]", devices) for name, devices in mapping.items()})

    def merged(self, other: KernelMapping) -> KernelMapping:
        """Return both mappings in one; where both fill the same layer name, device and mode, `other` wins."""
        layers = dict(self._layers)
        for name, places in other._layers.items():
            layers[name] = {**layers.get(name, {}), **places}
        return KernelMapping(layers)

    def lookup(self, layer_name: str, target: Target, mode: Mode) -> tuple[MappingEntry, ...] | Miss:
        """Return the entries that may serve a call, best first, or the miss that says why there is none.

        A narrower capability range comes before a wider one, and before entries for every device of the type; within a range the order is
        that of `mode.preference`. All are returned, so that the next one can be tried when the first turns out not to fit.

        Raises:
            ValueError: If no model can run in `mode`.
        """
        order = preference(mode)
        places = self._layers.get(layer_name)
        if places is None:
            return self.without(layer_name)
        asked = {"layer": layer_name, "device": target.device}
        of_type = {device for device, _ in places if device.type == target.device}
        if not of_type:
            return Miss("no_device", _NO_DEVICE, asked | {"mapped": _listing(device.type for device, _ in places)})
        fitting = sorted((device for device in of_type if _contains(device, target.capability)), key=_breadth)
        if not fitting:
            mapped = _listing(str(device.properties) for device in of_type)
            return Miss("capability", _CAPABILITY, asked | {"capability": target.capability, "mapped": mapped})
        wanted = [(device, option) for device in fitting for option in order]
        found = tuple(MappingEntry(places[place], place[1], place[0]) for place in wanted if place in places)
        if not found:
            mapped = _listing(option.label for device, option in places if device in fitting)
            return Miss("no_mode", _NO_MODE, asked | {"mode": mode.label, "mapped": mapped})
        return found

    def without(self, layer_name: str) -> Miss:
        """Return the miss of a layer name that has no kernel here."""
        return Miss("no_mapping", _NO_MAPPING, {"layer": layer_name, "mapped": ", ".join(self.layer_names) or "nothing"})

    def device_types(self, layer_name: str) -> frozenset[str]:
        """Return the types of the devices for which a kernel is mapped to a layer name; none if there is no kernel."""
        return frozenset(device.type for device, _ in self._layers.get(layer_name, {}))

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The layer names that kernels are mapped to, sorted."""
        return tuple(sorted(self._layers))

    @cached_property
    def _names(self) -> str:
        return _listing(self._layers)

    def __contains__(self, layer_name: object) -> bool:
        return layer_name in self._layers

    def __len__(self) -> int:
        return len(self._layers)

    def __eq__(self, other: object) -> bool:
        return self._layers == other._layers if isinstance(other, KernelMapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # repositories need not be hashable

    def __deepcopy__(self, memo: dict[int, Any]) -> KernelMapping:
        # A compile backend is deep-copied with the model that it belongs to; its repositories stay those whose kernels are loaded already.
        return self

    def __repr__(self) -> str:
        return f"KernelMapping({self._names})"


class KernelMappingContext:
    """What `use_kernel_mapping` returns.

    It keeps no state of its own, so it may be entered again, nested, and by several threads and tasks at once.
    """

    def __init__(self, mapping: KernelMapping, inherit_mapping: bool) -> None:
        self.mapping = mapping
        self.inherit_mapping = inherit_mapping

    def __enter__(self) -> KernelMappingContext:
        _active.set((*_active.get(), self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        contexts = _active.get()
        places = [place for place, context in enumerate(contexts) if context is self]
        if not places:
            raise RuntimeError("this thread or task has not entered the kernel mapping it leaves; do both in one, best with a `with` block")
        # Usually the last one. Generators can leave contexts in another order than they entered them; then only this one goes.
        _active.set(contexts[: places[-1]] + contexts[places[-1] + 1 :])


# Process-wide, and replaced as a whole under the lock: a reader sees the mapping before or after a registration, never half of one.
_registered = KernelMapping({})
_registration = Lock()

# Innermost last. A context variable, so that a thread or an async task sees only the contexts it has entered itself or was started in.
_active: ContextVar[tuple[KernelMappingContext, ...]] = ContextVar("fxkernels_kernel_mappings", default=())


def register_kernel_mapping(mapping: MappingLike | KernelMapping, inherit_mapping: bool = True) -> None:
    """Add kernels to the process-wide mapping, which every thread sees.

    Args:
        mapping: See `KernelMapping.of`. It replaces what was registered for the same layer name, device and mode; all else stays.
        inherit_mapping: False drops everything registered before.

    Raises:
        ValueError, TypeError: As `KernelMapping.of`; then nothing is registered.

    Example:
        >>> register_kernel_mapping({"RMSNorm": {"cuda": {Mode.INFERENCE: repository}}})
    """
    global _registered
    new = KernelMapping.of(mapping)
    with _registration:
        _registered = _registered.merged(new) if inherit_mapping else new


def use_kernel_mapping(mapping: MappingLike | KernelMapping, inherit_mapping: bool = True) -> KernelMappingContext:
    """Return a context manager in which `mapping` is in force, for the current thread or async task only.

    Args:
        mapping: See `KernelMapping.of`.
        inherit_mapping: False hides everything outside: the registered mapping and the contexts around this one.

    Raises:
        ValueError, TypeError: As `KernelMapping.of`, at once and not when the context is entered.

    Example:
        >>> with use_kernel_mapping({"RMSNorm": {"cuda": repository}}):
        ...     model = kernelize(model)
    """
    return KernelMappingContext(KernelMapping.of(mapping), inherit_mapping)


def current_mapping() -> KernelMapping:
    """Return the mapping in force here: the registered one, overlaid by the active contexts from the outermost to the innermost."""
    effective = _registered
    for context in _active.get():
        effective = effective.merged(context.mapping) if context.inherit_mapping else context.mapping
    return effective


def _layer_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the keys of a kernel mapping are layer names, not {name!r}")
    if not name.strip():
        raise ValueError("a kernel mapping has an empty layer name; use the name that the layer is annotated with")
    return name


def _places(where: str, devices: object) -> dict[tuple[Device, Mode], Repository]:
    """Read one layer's part of a user's dict. `where` is how the user would write the way to it."""
    if not isinstance(devices, Mapping):
        raise TypeError(f"{where} must be a dict from device to repository, not {devices!r}; write {{'cuda': repository}}")
    places: dict[tuple[Device, Mode], Repository] = {}
    for key, value in devices.items():
        device = _at(where, device_of, key)
        there = f"{where}[{key!r}]"
        modes = value if isinstance(value, Mapping) else {Mode.FALLBACK: value}
        for mode_key, repository in modes.items():
            mode = _at(there, mapping_mode, mode_key)
            if (device, mode) in places:
                raise ValueError(f"{there} gives {device} in mode {mode.label} a second repository; two keys there name the same device")
            places[device, mode] = _repository(there, repository)
    return places


def _at(where: str, read: Any, key: object) -> Any:
    """Read a key, and say in the error where in the mapping it stands."""
    try:
        return read(key)
    except (TypeError, ValueError) as error:
        raise type(error)(f"in {where}: {error}") from None


def _repository(where: str, value: object) -> Repository:
    if isinstance(value, type):
        raise TypeError(f"{where} is the class {value.__qualname__}; a mapping needs a repository object, made by calling the class")
    if not isinstance(value, Repository):
        raise TypeError(f"{where} is {value!r}, which has no load(); a repository is e.g. LocalLayerRepository(path, layer_name=...)")
    return value


def _contains(device: Device, capability: int | None) -> bool:
    return device.properties is None or (capability is not None and capability in device.properties)


def _breadth(device: Device) -> tuple[bool, int, int]:
    """Sort key: narrow ranges first, devices without a range last; of two equally wide ranges the one for newer devices."""
    if device.properties is None:
        return (True, 0, 0)
    lowest, highest = device.properties.min_capability, device.properties.max_capability
    return (False, highest - lowest, -lowest)


def _listing(words: Iterable[str]) -> str:
    return ", ".join(sorted(set(words))) or "none"
