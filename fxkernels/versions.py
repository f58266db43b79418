"""Which versions of which libraries a result depends on, and with which of them fxkernels was tested."""

from __future__ import annotations

import functools
import logging
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

_log = logging.getLogger("fxkernels")

LIBRARIES: tuple[str, ...] = ("fxkernels", "torch", "triton", "transformers", "kernels", "huggingface_hub")
"""What is reported of, where it is installed."""


Release = tuple[int, int]
"""Major and minor number. Bug fixes do not count: they are tested with the release that they mend."""


@dataclass(frozen=True, slots=True)
class Releases:
    """The releases of a library from `oldest` to `newest`."""

    oldest: Release
    newest: Release

    def __contains__(self, version: str) -> bool:
        # Not read as PEP 440 demands: Python calls its builds from a checkout "3.13.0+".
        found = re.match(r"(\d+)\.(\d+)", version)
        return found is not None and self.oldest <= (int(found[1]), int(found[2])) <= self.newest

    def __str__(self) -> str:
        return " to ".join(dict.fromkeys(f"{major}.{minor}" for major, minor in (self.oldest, self.newest)))


TESTED: dict[str, Releases] = {
    "python": Releases((3, 11), (3, 13)),
    "torch": Releases((2, 11), (2, 15)),
    "triton": Releases((3, 6), (3, 9)),
    "transformers": Releases((5, 17), (5, 24)),
    "kernels": Releases((0, 17), (0, 17)),
    "huggingface_hub": Releases((1, 10), (2, 4)),
}
"""By library. `make matrix` runs the tests with the oldest and with the newest of them."""


@functools.cache
def installed_versions() -> tuple[tuple[str, str], ...]:
    """Return name and version of Python and of each of `LIBRARIES` that is installed; torch's with what it was built for (``+cu130``)."""
    found = [("python", platform.python_version())]
    for name in LIBRARIES:
        try:
            found.append((name, torch.__version__ if name == "torch" else version(name)))
        except PackageNotFoundError:
            continue
    return tuple(found)


def untested(versions: Iterable[tuple[str, str]]) -> str | None:
    """Return the sentence that names the libraries whose version was not tested, or None if all of them were.

    Args:
        versions: Names and versions, as `installed_versions` has them.
    """
    found = [f"{name} {version} (tested: {TESTED[name]})" for name, version in versions if name in TESTED and version not in TESTED[name]]
    if not found:
        return None
    return (
        f"fxkernels: not tested with {', '.join(found)}; should kernels be missed or tracing fail, "
        "install a tested version, or report it with what `fxkernels env` prints"
    )


@functools.cache
def warn_of_untested() -> None:
    """Log a warning of the installed libraries whose version was not tested, once per process."""
    if (sentence := untested(installed_versions())) is not None:
        _log.warning("%s", sentence)
