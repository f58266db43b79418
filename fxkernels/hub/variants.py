"""Which of a repository's builds fits a target, and for every other one the reason why it does not.

A variant's name is read into what it demands (`_Tagged`, `_Noarch`); each kind answers with a rank (the lowest wins) or with a reason.
Another kind of name is another such class and a line in `_parse`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..target import Target

_TAGGED = re.compile(r"torch(\d)(\d+)(?:-(cxx11|cxx98))?-([a-z]+\d*)-([a-z0-9_]+)-([a-z]+)")
_NOARCH = re.compile(r"torch-([a-z]+)")
_NOT_YET = re.compile(r"(torch-stable-abi|tvm-ffi)\d+-.*")
_CUDA = re.compile(r"cu(\d+)(\d)")
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
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class VariantChoice:
    """The outcome of choosing among a repository's builds.

    Args:
        variant: Name of the best build that fits; None if there is none.
        rejected: The builds that do not fit, by name.
    """

    variant: str | None
    rejected: tuple[RejectedVariant, ...]


def choose_variant(names: Iterable[str], target: Target) -> VariantChoice:
    """Choose the build for `target` among the names of build variants.

    Of those that fit, one built for this torch version is preferred (newest CUDA minor first, without ABI tag first), then a build without
    compiled code for the device's backend, then one for every backend.

    Example:
        >>> choose_variant(["torch-cuda", "torch-universal"], cpu_target).variant
        'torch-universal'
    """
    fitting: list[tuple[Rank, str]] = []
    rejected: list[RejectedVariant] = []
    for name in sorted(names):
        verdict = _verdict(name, target)
        if isinstance(verdict, str):
            rejected.append(RejectedVariant(name, verdict))
        else:
            fitting.append((verdict, name))
    return VariantChoice(min(fitting)[1] if fitting else None, tuple(rejected))


def _verdict(name: str, target: Target) -> Rank | str:
    """Return the rank of a variant among those that fit, or the reason why it does not fit."""
    if _NOT_YET.fullmatch(name):
        return "stable-ABI and tvm-ffi builds are not supported yet"
    if tagged := _TAGGED.fullmatch(name):
        major, minor, abi, accelerator, cpu, system = tagged.groups()
        return _Tagged(f"{major}.{minor}", abi, accelerator, cpu, system).verdict(target)
    if noarch := _NOARCH.fullmatch(name):
        return _Noarch(noarch[1]).verdict(target)
    return "not the name of a build variant"


@dataclass(frozen=True, slots=True)
class _Tagged:
    """Compiled code: for one torch version, accelerator, CPU and operating system."""

    torch: str
    abi: str | None
    accelerator: str
    cpu: str
    os: str

    def verdict(self, target: Target) -> Rank | str:
        if (self.os, self.cpu) != (target.os, target.cpu):
            return f"built for {self.cpu}-{self.os}, this is {target.cpu}-{target.os}"
        if self.torch != target.torch:
            return f"built for torch {self.torch}, this is {target.torch}"
        if self.abi == "cxx98":
            return "built with the pre-C++11 ABI, which no supported torch has"
        wanted = target.accelerator or _backend(target)
        tagged = 0 if self.abi is None else 1
        if self.accelerator == wanted:
            return (0, 0, tagged)
        built, here = _CUDA.fullmatch(self.accelerator), _CUDA.fullmatch(wanted)
        if built is None or here is None or built[1] != here[1]:
            return f"built for {self.accelerator}, this is {wanted}"
        if int(built[2]) > int(here[2]):
            return f"built for CUDA {built[1]}.{built[2]}, newer than this one, {here[1]}.{here[2]}"
        return (0, int(here[2]) - int(built[2]), tagged)


@dataclass(frozen=True, slots=True)
class _Noarch:
    """Python code only: for one backend, or for all."""

    backend: str

    def verdict(self, target: Target) -> Rank | str:
        if self.backend == "universal":
            return (2,)
        if self.backend != _backend(target):
            return f"for {self.backend}, the target is {_backend(target)}"
        return (1,)


def _backend(target: Target) -> str:
    return _BACKENDS.get(target.device, target.device)
