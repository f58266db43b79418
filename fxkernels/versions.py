"""Which versions of which libraries a result depends on."""

from __future__ import annotations

import functools
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

LIBRARIES: tuple[str, ...] = ("fxkernels", "torch", "triton", "transformers", "kernels", "huggingface_hub")
"""What is reported of, where it is installed."""


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
