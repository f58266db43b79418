"""The cases in which a call may keep its original layer."""

from __future__ import annotations

from enum import Flag, auto

from .errors import REPOSITORY_CODES
from .passes.miss import Miss


class KernelizeFallback(Flag):
    """Cases in which a call may keep its original layer; in the others `kernelize` raises. The members are those of the `kernels` package.

    `NO_LAYER`: no kernel is mapped to the layer name. `NO_DEVICE`: none for the device. `NO_COMPATIBLE_PROPERTIES`: none for its
    capability. `NO_COMPATIBLE_MODE`: none for the mode, or the kernel does not support it. `CANNOT_LOAD`: a repository cannot be loaded.
    `DEFAULT` is all but the last. A call that misses for any other reason (its region, its inputs) keeps the original unless the flag is
    `NONE`.
    """

    NONE = 0
    NO_LAYER = auto()
    NO_DEVICE = auto()
    NO_COMPATIBLE_PROPERTIES = auto()
    NO_COMPATIBLE_MODE = auto()
    CANNOT_LOAD = auto()
    DEFAULT = NO_LAYER | NO_DEVICE | NO_COMPATIBLE_PROPERTIES | NO_COMPATIBLE_MODE
    ALL = DEFAULT | CANNOT_LOAD

    @classmethod
    def of(cls, value: bool | KernelizeFallback) -> KernelizeFallback:
        """Return the flags of a ``use_fallback=``: True is `DEFAULT`, False is `NONE`.

        Raises:
            TypeError: If it is neither a bool nor a flag.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, bool):
            return cls.DEFAULT if value else cls.NONE
        raise TypeError(f"use_fallback is True, False or a KernelizeFallback, not {value!r}")

    def permits(self, miss: Miss) -> bool:
        """Return whether a call with this miss may keep its original layer."""
        case = _CASES.get(miss.code)
        return bool(self & case) if case is not None else self is not KernelizeFallback.NONE


_CASES: dict[str, KernelizeFallback] = {
    "no_mapping": KernelizeFallback.NO_LAYER,
    "no_device": KernelizeFallback.NO_DEVICE,
    "capability": KernelizeFallback.NO_COMPATIBLE_PROPERTIES,
    "no_mode": KernelizeFallback.NO_COMPATIBLE_MODE,
    "no_backward": KernelizeFallback.NO_COMPATIBLE_MODE,
    "not_compilable": KernelizeFallback.NO_COMPATIBLE_MODE,
    **dict.fromkeys(REPOSITORY_CODES, KernelizeFallback.CANNOT_LOAD),
}
