"""The errors that fxkernels raises, and the cases in which a call keeps its original layer instead.

A user's mistake in a call is a ValueError or a TypeError and is not listed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Flag, auto

from .passes.miss import Miss

REPOSITORY_CODES: tuple[str, ...] = ("untrusted", "no_variant", "offline", "digest", "load_error")
"""The miss codes of a repository that cannot be used."""

LISTED_CALLS = 20
"""How many calls a NoKernelError spells out; a large model has hundreds."""


class FxKernelsError(Exception):
    """The base of all errors of fxkernels itself."""


class RepositoryError(FxKernelsError):
    """A kernel repository cannot be found, read or imported.

    Args:
        code: The miss code under which a report files it, one of `REPOSITORY_CODES`.
        message: What happened, where, and what to do next.

    Raises:
        ValueError: If the code is not one of `REPOSITORY_CODES`.

    Example:
        >>> raise RepositoryError("no_variant", "acme/norms has no build for torch 2.13 on cpu")
    """

    def __init__(self, code: str, message: str) -> None:
        if code not in REPOSITORY_CODES:
            raise ValueError(f"unknown repository error code {code!r}; it must be one of {', '.join(REPOSITORY_CODES)}")
        # Both go to Exception.args, from which an exception is rebuilt when it crosses a process boundary.
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


class ContractError(FxKernelsError):
    """A kernel layer does not fit the layer that it is mapped to."""


class CaptureError(FxKernelsError):
    """A model cannot be captured in the way that was asked for."""


class NoKernelError(FxKernelsError):
    """Calls have no kernel, and the user does not allow the original layer (``use_fallback=False``).

    Args:
        misses: For each such call its module path (with call index), its layer name and its first miss.
    """

    def __init__(self, misses: Sequence[tuple[str, str, Miss]]) -> None:
        super().__init__(tuple(misses))
        self.misses = tuple(misses)

    def __str__(self) -> str:
        count = len(self.misses)
        calls = "layer call has" if count == 1 else "layer calls have"
        lines = [f"{count} {calls} no kernel, and use_fallback=False rules out the original layer:"]
        lines += [f"  {path} ({layer_name}): {miss}" for path, layer_name, miss in self.misses[:LISTED_CALLS]]
        if count > LISTED_CALLS:
            lines.append(f"  ... and {count - LISTED_CALLS} more; `.misses` of this error has them all")
        lines.append("Map a kernel to these layer names, exclude the calls, or allow the original layer with use_fallback=True.")
        return "\n".join(lines)


class DroppedOutputError(FxKernelsError, AttributeError):
    """Something reads an output of a model that was dropped. `hasattr` finds nothing on such an output, and goes on."""


class KernelRuntimeError(FxKernelsError):
    """A kernel raised while the model was running. The original layer is not run instead: the kernel may have written to its inputs.

    Args:
        path: Module path of the call, with call index.
        kernel: The kernel's identity; its ``str()`` names repository, revision and layer.
        cause: What the kernel raised.
    """

    def __init__(self, path: str, kernel: object, cause: BaseException) -> None:
        super().__init__(path, kernel, cause)
        self.path = path
        self.kernel = kernel
        self.__cause__ = cause

    def __str__(self) -> str:
        return (
            f"kernel {self.kernel} failed at {self.path or '(the model itself)'}\n"
            f"  {type(self.__cause__).__name__}: {self.__cause__}\n"
            "To run the original layer there, exclude its path or take the kernel out of the mapping."
        )


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
