"""The errors that fxkernels raises. A user's mistake in a call is a ValueError or a TypeError and is not listed here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
