"""Which of a repository's builds fit a target, best first, and for every other one the reason why it does not.

Each kind of build answers with a rank (the lowest is the best) or with a reason. No two names have the same rank, so the order is that of
the builds and not that in which they were listed. What only the metadata knows, the architectures, is a second question: `why_not_arch`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ...target import ACCELERATORS, Target
from .metadata import Metadata
from .variants import UNIVERSAL, NoarchBuild, Platform, Release, StableAbiBuild, TorchBuild, TvmFfiBuild, Variant, parse_variant

_CUDA = re.compile(r"cu([0-9]+)([0-9])")
_CUDA_ARCH = re.compile(r"([0-9]{1,3})\.([0-9]{1,2})([af]?)(\+PTX)?")
_ROCM_ARCH = re.compile(r"gfx([0-9]{1,2})([0-9a-f])[0-9a-f](?::.*)?")
# Device types of torch whose builds go by another name.
_BACKENDS = {"mps": "metal"}

Rank = tuple[int, ...]


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
        # Names come from whoever made the repository; control characters must not reach a terminal.
        return f"{self.name if self.name.isprintable() else ascii(self.name)}: {self.reason}"


@dataclass(frozen=True, slots=True)
class VariantChoice:
    """The outcome of choosing among a repository's builds. All names that were offered are in one of the two.

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
        verdict = "not the name of a build variant" if variant is None else _verdict(variant, target)
        if isinstance(verdict, str):
            rejected.append(RejectedVariant(name, verdict))
        else:
            fitting.append((verdict, name))
    return VariantChoice(tuple(name for _, name in sorted(fitting)), tuple(rejected))


def why_not_arch(metadata: Metadata, target: Target) -> str | None:
    """Return why a build's architectures leave out the target's device, as a phrase; None if they do not, or nobody can tell.

    Code for a CUDA architecture runs on the same major version from its own minor on, also with an ``f``, which stands for that family;
    with an ``a`` on that very capability only; with ``+PTX`` on everything newer as well. A ROCm capability does not name the stepping
    (the last digit of ``gfx942``), so there a build is rejected only if it has no architecture of that major and minor version.
    """
    if target.capability is None or not metadata.archs or metadata.backend != target.device:
        return None
    capability = Release(*divmod(target.capability, 10))
    covers = {"cuda": _cuda_arch_covers, "rocm": _rocm_arch_covers}.get(target.device)
    # An architecture in a form that we cannot read says nothing; if all are, a later format is more likely than a wrong build.
    known = [] if covers is None else [answer for arch in metadata.archs if (answer := covers(arch, capability)) is not None]
    if not known or any(known):
        return None
    return f"compiled for the architectures {', '.join(metadata.archs)}, the target has {capability}"


def _verdict(variant: Variant, target: Target) -> Rank | str:
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
    """Say whether code for `arch` runs on the capability; None if it is in no form that we know."""
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
