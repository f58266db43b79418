"""The builds of a repository: what the name of a build variant says, and which builds fit a target, best first.

There are four kinds of names, each a frozen value whose ``str()`` is the name. `choose_variant` gives each build a rank (the lowest is the
best) or a reason why it does not fit. No two names have the same rank, so the order does not depend on the listing. The architectures are
in the metadata only, so they are a second question: `why_not_arch`.

Another kind of name is another class, a line in `parse_variant` and a case in `_rank`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ...target import ACCELERATORS, Target
from .metadata import Metadata

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

_CUDA = re.compile(r"cu([0-9]+)([0-9])")
_CUDA_ARCH = re.compile(r"([0-9]{1,3})\.([0-9]{1,2})([af]?)(\+PTX)?")
_ROCM_ARCH = re.compile(r"gfx([0-9]{1,2})([0-9a-f])[0-9a-f](?::.*)?")
# Device types of torch whose builds go by another name.
_BACKENDS = {"mps": "metal"}

UNIVERSAL = "universal"
"""The backend in the name of a build that runs on all of them."""


class Release(NamedTuple):
    """Major and minor of a version; compared as numbers: 2.9 comes before 2.13."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def digits(self) -> str:
        """As a part of a name: ``"213"``."""
        return f"{self.major}{self.minor}"


@dataclass(frozen=True, slots=True)
class Platform:
    """The machine that code was compiled for.

    Args:
        accelerator: ``"cpu"``, ``"metal"``, or an accelerator framework with its version: ``"cu130"``, ``"rocm71"``, ``"xpu20252"``.
        cpu: CPU architecture.
        os: Operating system.

    Raises:
        ValueError: If one of them cannot be part of a name.
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
    """Python code only, including code that is compiled when it runs (Triton): ``torch-cuda``, ``torch-universal``.

    Args:
        backend: The backend that it is for, e.g. ``"cuda"`` or ``"metal"``; `UNIVERSAL` for every one.
    """

    backend: str

    def __post_init__(self) -> None:
        _require(_BACKEND, "backend", self.backend)

    def __str__(self) -> str:
        return f"torch-{self.backend}"


Variant = TorchBuild | StableAbiBuild | TvmFfiBuild | NoarchBuild
Rank = tuple[int, ...]


def parse_variant(name: str) -> Variant | None:
    """Return what the name of a build variant says; None if it is not the name of one.

    The value has exactly this name: ``str(parse_variant(name)) == name``.

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


@dataclass(frozen=True, slots=True)
class RejectedVariant:
    """A build that does not fit the target.

    Args:
        name: Its directory's name.
        reason: Why, as a phrase: ``"built for torch 2.9, this is 2.13"``.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        # The name is foreign text; control characters must not reach a terminal.
        return f"{self.name if self.name.isprintable() else ascii(self.name)}: {self.reason}"


@dataclass(frozen=True, slots=True)
class VariantChoice:
    """The repository's builds, sorted into those that fit a target and those that do not.

    Args:
        fitting: Names of the builds that fit, best first.
        rejected: The builds that do not fit, by name.
    """

    fitting: tuple[str, ...]
    rejected: tuple[RejectedVariant, ...]

    @property
    def variant(self) -> str | None:
        """Name of the best build that fits; None if there is none."""
        return self.fitting[0] if self.fitting else None


def choose_variant(names: Iterable[str], target: Target) -> VariantChoice:
    """Choose the builds for `target` among the names of build variants.

    First come builds for torch's stable ABI (highest ABI, then highest CUDA minor), then those for this torch version (without an ABI tag
    before tagged, then highest CUDA minor), then those for tvm-ffi, then those without compiled code: for the backend, then for every one.

    Example:
        >>> choose_variant(["torch-cuda", "torch-universal"], Target.parse("cpu")).variant
        'torch-universal'
    """
    fitting: list[tuple[Rank, str]] = []
    rejected: list[RejectedVariant] = []
    for name in sorted(set(names)):
        variant = parse_variant(name)
        rank = "not the name of a build variant" if variant is None else _rank(variant, target)
        if isinstance(rank, str):
            rejected.append(RejectedVariant(name, rank))
        else:
            fitting.append((rank, name))
    return VariantChoice(tuple(name for _, name in sorted(fitting)), tuple(rejected))


def why_not_arch(metadata: Metadata, target: Target) -> str | None:
    """Return why a build's architectures leave out the target's device, as a phrase; None if they do not, or that is not known.

    Code for a CUDA architecture runs on the same major version from its own minor on, with and without an ``f`` (family). With an ``a`` it
    runs on exactly that capability, with ``+PTX`` on everything newer too. A ROCm capability does not name the stepping (the last digit of
    ``gfx942``), so a build for ROCm is rejected only if it has no architecture of that major and minor version.
    """
    if target.capability is None or not metadata.archs or metadata.backend != target.device:
        return None
    capability = Release(*divmod(target.capability, 10))
    covers = {"cuda": _cuda_arch_covers, "rocm": _rocm_arch_covers}.get(target.device)
    # An architecture in an unknown form is skipped; if all are unknown, a later format is more likely than a wrong build.
    known = [] if covers is None else [answer for arch in metadata.archs if (answer := covers(arch, capability)) is not None]
    if not known or any(known):
        return None
    return f"compiled for the architectures {', '.join(metadata.archs)}, the target has {capability}"


def _release(major: str, minor: str) -> Release:
    return Release(int(major), int(minor))


def _require(pattern: re.Pattern[str], name: str, value: str) -> None:
    if not pattern.fullmatch(value):
        raise ValueError(f"{name}={value!r} cannot be part of a build variant's name; it must match {pattern.pattern}")


def _require_release(release: Release) -> None:
    if not (0 <= release.major <= 9 and 0 <= release.minor <= 999):
        raise ValueError(f"version {release} cannot be part of a build variant's name; its major has one digit, its minor at most three")


def _rank(variant: Variant, target: Target) -> Rank | str:
    """Return the rank of a build among those that fit, or the reason why it does not fit."""
    if isinstance(variant, NoarchBuild):
        backend = _backend(target)
        if variant.backend not in (backend, UNIVERSAL):
            return f"for {variant.backend}, the target is {backend}"
        return (4,) if variant.backend == UNIVERSAL else (3,)
    platform = variant.platform
    reason = _why_not_system(platform, target) or _why_not_framework(variant, target) or _why_not_accelerator(platform, target)
    if reason is not None:
        return reason
    cuda = _CUDA.fullmatch(platform.accelerator)
    newest_cuda = -int(cuda[2]) if cuda is not None else 0
    match variant:
        case StableAbiBuild(abi=abi):
            return (0, -abi.major, -abi.minor, newest_cuda)
        case TorchBuild(abi=tag):
            return (1, 0 if tag is None else 1, 0, newest_cuda)
        case TvmFfiBuild(tvm_ffi=version):
            return (2, -version.major, -version.minor, newest_cuda)


def _why_not_system(platform: Platform, target: Target) -> str | None:
    if (platform.os, platform.cpu) == (target.os, target.cpu):
        return None
    return f"built for {platform.cpu}-{platform.os}, this is {target.cpu}-{target.os}"


def _why_not_framework(variant: TorchBuild | StableAbiBuild | TvmFfiBuild, target: Target) -> str | None:
    torch = Release(*map(int, target.torch.split(".")))
    match variant:
        case StableAbiBuild(abi=abi) if abi > torch:
            return f"built for the stable ABI of torch {abi}, newer than this one, {torch}"
        case TorchBuild(torch=built) if built != torch:
            return f"built for torch {built}, this is {torch}"
        case TorchBuild(abi="cxx98"):
            return "built with the pre-C++11 ABI, which no supported torch has"
    return None


def _why_not_accelerator(platform: Platform, target: Target) -> str | None:
    built = platform.accelerator
    wanted = target.accelerator or _backend(target)
    if built == wanted:
        return None
    if target.accelerator is None and built.rstrip("0123456789") == ACCELERATORS.get(target.device):
        return f"built for {built}, the target does not say which it has"
    theirs, ours = _CUDA.fullmatch(built), _CUDA.fullmatch(wanted)
    if theirs is None or ours is None or theirs[1] != ours[1]:
        return f"built for {built}, this is {wanted}"
    if int(theirs[2]) > int(ours[2]):
        return f"built for CUDA {theirs[1]}.{theirs[2]}, newer than this one, {ours[1]}.{ours[2]}"
    return None


def _cuda_arch_covers(arch: str, capability: Release) -> bool | None:
    """Return whether code for `arch` runs on the capability; None if `arch` is in an unknown form."""
    read = _CUDA_ARCH.fullmatch(arch)
    if read is None:
        return None
    built = Release(int(read[1]), int(read[2]))
    if read[3] == "a":
        return built == capability
    if read[4] and not read[3]:
        return capability >= built
    return capability.major == built.major and capability.minor >= built.minor


def _rocm_arch_covers(arch: str, capability: Release) -> bool | None:
    """As `_cuda_arch_covers`; in ``gfx1100`` the last two digits are minor version and stepping."""
    read = _ROCM_ARCH.fullmatch(arch)
    return None if read is None else Release(int(read[1]), int(read[2], 16)) == capability


def _backend(target: Target) -> str:
    return _BACKENDS.get(target.device, target.device)
