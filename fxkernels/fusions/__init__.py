"""The fusions that ship with the library, one file each. A new file is found by looking.

Each file has one composition that models write out, with the models that have it and what a kernel for it saves. Kernels are in `builtin`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from ..fusion import Fusion, known_fusions


def _shipped() -> Iterator[type[Fusion]]:
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda each: each.name):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Fusion) and value.__module__ == f"{__name__}.{module.name}":
                yield value


SHIPPED: tuple[type[Fusion], ...] = tuple(_shipped())
"""The shipped fusions, in the order of their files."""


def current_fusions() -> dict[str, type[Fusion]]:
    """Return the fusions in force here by layer name: those that ship, the registered ones, and those of active contexts."""
    return {fusion.layer_name: fusion for fusion in (*SHIPPED, *known_fusions())}
