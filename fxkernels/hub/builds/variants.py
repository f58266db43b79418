"""What the name of a build variant says: the directory's name under ``build/`` as a value, and back.

There are four kinds of names, each a frozen value whose ``str()`` is the name. Which of them fits a target is `variant_choice`'s business.
Another kind of name is another such class, a line in `parse_variant`, and a case in `variant_choice`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

_ACCELERATOR = re.compile(r"[a-z]+[0-9]*")
_CPU = re.compile(r"[a-z0-9_]+")
_OS = re.compile(r"[a-z]+")
_BACKEND = re.compile(r"[a-z][a-z0-9_]*")

# The first digit of a version is its major, all others are its minor. [0-9] and no leading zero, so that two names never mean one build.
_RELEASE = r"([0-9])(0|[1-9][0-9]{0,2})"
_PLATFORM = rf"({_ACCELERATOR.pattern})-({_CPU.pattern})-({_OS.pattern})"
_TORCH_NAME = re.compile(rf"torch{_RELEASE}(?:-(cxx11|cxx98))?-{_PLATFORM}")
_STABLE_ABI_NAME = re.compile(rf"torch-stable-abi{_RELEASE}-{_PLATFORM}")
_TVM_FFI_NAME = re.compile(rf"tvm-ffi{_RELEASE}-{_PLATFORM}")
_NOARCH_NAME = re.compile(rf"torch-({_BACKEND.pattern})")

UNIVERSAL = "universal"
"""What a build without compiled code names in the place of a backend if it is for all of them."""


class Release(NamedTuple):
    """Major and minor of a version; compared as numbers: 2.9 comes before 2.13."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def digits(self) -> str:
        """As it stands in a name: ``"213"``."""
        return f"{self.major}{self.minor}"


@dataclass(frozen=True, slots=True)
class Platform:
    """What code was compiled for, besides the framework that it is called through.

    Args:
        accelerator: ``"cpu"``, ``"metal"``, or an accelerator framework with its version: ``"cu130"``, ``"rocm71"``, ``"xpu20252"``.
        cpu: CPU architecture.
        os: Operating system.

    Raises:
        ValueError: If one of them cannot stand in a name.
    """

    accelerator: str
    cpu: str
    os: str

    def __post_init__(self) -> None:
        _require(_ACCELERATOR, "accelerator", self.accelerator)
        _require(_CPU, "cpu", self.cpu)
        _require(_OS, "os", self.os)

    def __str__(self) -> str:
        return f"{self.accelerator}-{self.cpu}-{self.os}"


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """Compiled for one torch version: ``torch213-cxx11-cu130-x86_64-linux``.

    Args:
        torch: That version.
        abi: The C++ ABI in the name, ``"cxx11"`` or ``"cxx98"``; newer builds name none.
        platform: What it was compiled for.
    """

    torch: Release
    abi: str | None
    platform: Platform

    def __post_init__(self) -> None:
        _require_release(self.torch)
        if self.abi not in (None, "cxx11", "cxx98"):
            raise ValueError(f"abi={self.abi!r} is no C++ ABI; it is 'cxx11', 'cxx98' or None")

    def __str__(self) -> str:
        return f"torch{self.torch.digits}{f'-{self.abi}' if self.abi else ''}-{self.platform}"


@dataclass(frozen=True, slots=True)
class StableAbiBuild:
    """Compiled against torch's stable ABI, for every torch version from one on: ``torch-stable-abi29-cpu-x86_64-linux``.

    Args:
        abi: The oldest torch version that has all it uses.
        platform: What it was compiled for.
    """

    abi: Release
    platform: Platform

    def __post_init__(self) -> None:
        _require_release(self.abi)

    def __str__(self) -> str:
        return f"torch-stable-abi{self.abi.digits}-{self.platform}"


@dataclass(frozen=True, slots=True)
class TvmFfiBuild:
    """Compiled for one version of tvm-ffi, whatever the torch version: ``tvm-ffi01-cu130-x86_64-linux``.

    Args:
        tvm_ffi: That version. Whether it is installed is checked before the import, see `requirements`.
        platform: What it was compiled for.
    """

    tvm_ffi: Release
    platform: Platform

    def __post_init__(self) -> None:
        _require_release(self.tvm_ffi)

    def __str__(self) -> str:
        return f"tvm-ffi{self.tvm_ffi.digits}-{self.platform}"


@dataclass(frozen=True, slots=True)
class NoarchBuild:
    """Python code only, also such as is compiled when it runs (Triton): ``torch-cuda``, ``torch-universal``.

    Args:
        backend: The backend that it is for, e.g. ``"cuda"`` or ``"metal"``; `UNIVERSAL` for every one.
    """

    backend: str

    def __post_init__(self) -> None:
        _require(_BACKEND, "backend", self.backend)

    def __str__(self) -> str:
        return f"torch-{self.backend}"


Variant = TorchBuild | StableAbiBuild | TvmFfiBuild | NoarchBuild


def parse_variant(name: str) -> Variant | None:
    """Return what the name of a build variant says; None if it is not the name of one.

    Whatever is returned has exactly this name: ``str(parse_variant(name)) == name``.

    Example:
        >>> parse_variant("torch-cuda")
        NoarchBuild(backend='cuda')
    """
    if found := _STABLE_ABI_NAME.fullmatch(name):
        return StableAbiBuild(_release(found[1], found[2]), Platform(*found.groups()[2:]))
    if found := _TVM_FFI_NAME.fullmatch(name):
        return TvmFfiBuild(_release(found[1], found[2]), Platform(*found.groups()[2:]))
    if found := _TORCH_NAME.fullmatch(name):
        return TorchBuild(_release(found[1], found[2]), found[3], Platform(*found.groups()[3:]))
    if found := _NOARCH_NAME.fullmatch(name):
        return NoarchBuild(found[1])
    return None


def _release(major: str, minor: str) -> Release:
    return Release(int(major), int(minor))


def _require(pattern: re.Pattern[str], name: str, value: str) -> None:
    if not pattern.fullmatch(value):
        raise ValueError(f"{name}={value!r} cannot stand in the name of a build variant; it must match {pattern.pattern}")


def _require_release(release: Release) -> None:
    if not (0 <= release.major <= 9 and 0 <= release.minor <= 999):
        raise ValueError(f"version {release} cannot stand in the name of a build variant; its major has one digit, its minor at most three")
