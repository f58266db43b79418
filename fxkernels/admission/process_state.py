"""Process state that a kernel must not change: settings of torch, functions of torch, random number generators."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import is_
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_CUDNN, _CUDA = torch.backends.cudnn, torch.backends.cuda


@dataclass(frozen=True, slots=True)
class _Setting:
    """One thing that may be changed.

    Args:
        name: For the sentence.
        read: Returns what it is; values are compared by ``==``.
        write: Sets it.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]


def _flushes_denormals() -> bool:
    smallest_normal, half = 2.2250738585072014e-308, 0.5
    return smallest_normal * half == 0.0


def _set_autocast(enabled: tuple[bool, ...]) -> None:
    for device, value in zip(("cpu", "cuda"), enabled, strict=True):
        torch.set_autocast_enabled(device, value)


def _set_cudnn(values: tuple[bool, ...]) -> None:
    _CUDNN.enabled, _CUDNN.benchmark, _CUDNN.deterministic, _CUDNN.allow_tf32 = values


def _sdp() -> tuple[bool, ...]:
    read: tuple[Any, ...] = (_CUDA.flash_sdp_enabled, _CUDA.mem_efficient_sdp_enabled, _CUDA.math_sdp_enabled)
    return tuple(bool(enabled()) for enabled in read)


def _set_sdp(values: tuple[bool, ...]) -> None:
    for write, value in zip((_CUDA.enable_flash_sdp, _CUDA.enable_mem_efficient_sdp, _CUDA.enable_math_sdp), values, strict=True):
        write(value)


def _set_device(device: torch.device) -> None:
    if torch.get_default_device() != device:
        torch.set_default_device(device)


SETTINGS = (
    _Setting("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _Setting("the default device", torch.get_default_device, _set_device),
    _Setting("grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    _Setting("inference mode", torch.is_inference_mode_enabled, lambda _: None),
    _Setting("the number of threads", torch.get_num_threads, torch.set_num_threads),
    _Setting("the precision of matrix products", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    _Setting(
        "the use of deterministic algorithms",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda found: torch.use_deterministic_algorithms(found[0], warn_only=found[1]),
    ),
    _Setting("anomaly detection", torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    _Setting("autocast", lambda: (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")), _set_autocast),
    _Setting("the settings of cuDNN", lambda: (_CUDNN.enabled, _CUDNN.benchmark, _CUDNN.deterministic, _CUDNN.allow_tf32), _set_cudnn),
    _Setting("which kernels attention may use", _sdp, _set_sdp),
    _Setting("how small numbers are rounded", _flushes_denormals, torch.set_flush_denormal),
    _Setting("the current directory", os.getcwd, os.chdir),
)

_SHARED: tuple[tuple[str, Any], ...] = (("torch", torch), ("torch.nn.functional", F), ("torch.Tensor", torch.Tensor), ("Module", nn.Module))
"""Namespaces whose functions must not be replaced."""


@dataclass(frozen=True)
class ProcessState:
    """A snapshot. What it has no name for, such as caches, a kernel may change."""

    settings: tuple[Any, ...]
    functions: tuple[dict[str, Any], ...]
    numbers: dict[str, Any]

    @staticmethod
    def now() -> ProcessState:
        """Return the present state."""
        functions = tuple(dict(vars(place)) for _, place in _SHARED)
        return ProcessState(tuple(setting.read() for setting in SETTINGS), functions, dict(_random_numbers()))

    def changed(self) -> tuple[str, str] | None:
        """Return the miss code and the name of the first thing that is not as it was."""
        for setting, before in zip(SETTINGS, self.settings, strict=True):
            if setting.read() != before:
                return "own_state", setting.name
        for name, _ in self._replaced():
            return "own_state", name
        now = dict(_random_numbers())
        for name, before in self.numbers.items():
            if not _equal(before, now[name]):
                return "random", f"the state of {name}"
        return None

    def restore(self) -> None:
        """Put everything back."""
        for setting, before in zip(SETTINGS, self.settings, strict=True):
            if setting.read() != before:
                setting.write(before)
        for _, put_back in self._replaced():
            put_back()
        torch.set_rng_state(self.numbers["torch's random numbers"])
        random.setstate(self.numbers["Python's random numbers"])
        if "numpy's random numbers" in self.numbers:
            sys.modules["numpy"].random.set_state(self.numbers["numpy's random numbers"])

    def _replaced(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Functions that are others now. New names are none: modules are imported when they are first needed."""
        for (place_name, place), before in zip(_SHARED, self.functions, strict=True):
            now = vars(place)
            if all(map(is_, before.values(), map(now.get, before))):  # by far the usual case
                continue
            for name, function in before.items():
                if callable(function) and now.get(name) is not function:
                    yield f"{place_name}.{name}", partial(setattr, place, name, function)


def _random_numbers() -> Iterator[tuple[str, Any]]:
    yield "torch's random numbers", torch.get_rng_state()
    yield "Python's random numbers", random.getstate()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        yield "numpy's random numbers", numpy.random.get_state()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        yield "the device's random numbers", torch.cuda.get_rng_state()


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, tuple) and any(hasattr(item, "all") for item in one):  # numpy's has an array in it
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool((one == other).all()) if hasattr(one, "all") else bool(one == other)
