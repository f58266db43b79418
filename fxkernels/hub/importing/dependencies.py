"""What a kernel sees of the kernels that it depends on: the ones that its metadata declares, and those only while it is imported.

Kernels ask by ``get_kernel_dep(repo_id)``, written as an import from fxkernels or from the `kernels` package. The latter need not be
installed, and stays as it is: in a module of a kernel, and nowhere else, the import statement answers for its name.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

from ...errors import RepositoryError

_PEER = "kernels"
# The modules of the peer that have get_kernel_dep.
_ANSWERED = (_PEER, f"{_PEER}.deps")


@dataclass(frozen=True, slots=True)
class _Dependant:
    repository: str
    dependencies: Mapping[str, ModuleType]


# A context variable, because another thread may call a kernel while this one imports one.
_importing: ContextVar[_Dependant | None] = ContextVar("fxkernels_importing", default=None)


def get_kernel_dep(repo_id: str) -> ModuleType:
    """Return the kernel `repo_id` to a kernel that depends on it.

    It is for code in a kernel repository that runs when the kernel is imported. Which version comes back is written in the dependant's
    metadata, under ``kernel-depends``.

    Args:
        repo_id: The kernel's repository, e.g. ``"acme/activations"``.

    Raises:
        RepositoryError: With code ``load_error``, if no kernel is being imported, or if the one that is does not declare the dependency.

    Example:
        >>> from fxkernels import get_kernel_dep
        >>> activations = get_kernel_dep("acme/activations")  # in the __init__.py of a kernel
    """
    dependant = _importing.get()
    if dependant is None:
        raise RepositoryError(
            "load_error",
            f"get_kernel_dep({repo_id!r}) was called while no kernel is being imported\n"
            "  It is for code at the top level of a kernel's modules: keep what it returns there, and use that later.",
        )
    module = dependant.dependencies.get(repo_id)
    if module is None:
        declared = ", ".join(sorted(dependant.dependencies)) or "(none)"
        raise RepositoryError(
            "load_error",
            f"{dependant.repository} asks for the kernel {repo_id!r}, on which it does not declare to depend\n"
            f"  kernel-depends in its metadata.json: {declared}",
        )
    return module


@contextlib.contextmanager
def visible(repository: str, dependencies: Mapping[str, ModuleType]) -> Iterator[None]:
    """Let `get_kernel_dep` answer with these modules, and no others, as long as the block runs: the import of `repository`."""
    token = _importing.set(_Dependant(repository, dependencies))
    try:
        yield
    finally:
        _importing.reset(token)


def run_module(code: CodeType, module: ModuleType) -> None:
    """Run the code of a kernel's module. If it names the `kernels` package, its import statement gets `get_kernel_dep` from here."""
    if _names_peer(code):
        # Only then: compilers look into a module's builtins, and ordinary ones are what they expect.
        module.__dict__["__builtins__"] = vars(builtins) | {"__import__": _import}
    exec(code, module.__dict__)


def _names_peer(code: CodeType) -> bool:
    if any(name == _PEER or name.startswith(f"{_PEER}.") for name in code.co_names):
        return True
    return any(_names_peer(constant) for constant in code.co_consts if isinstance(constant, CodeType))


def _import(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    if level or name.partition(".")[0] != _PEER:
        return builtins.__import__(name, globals, locals, fromlist, level)
    if name not in _ANSWERED:
        module = builtins.__import__(name, globals, locals, fromlist, level)
        # `import kernels.layer` binds the name `kernels`; `from kernels.layer import x` takes x from what is returned.
        return module if fromlist else _STAND_IN
    return _STAND_IN.deps if fromlist and name != _PEER else _STAND_IN


class _StandIn(ModuleType):
    """The `kernels` package as a kernel sees it: our `get_kernel_dep`, and for all else the package itself, if it is installed."""

    get_kernel_dep = staticmethod(get_kernel_dep)
    deps: _StandIn

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for these, and must not get those of the package
            raise AttributeError(name)
        try:
            return getattr(importlib.import_module(self.__name__), name)
        except ModuleNotFoundError as error:
            if error.name != _PEER:
                raise
            raise AttributeError(
                f"the package {_PEER!r} is not installed; without it, kernels find {_PEER}.get_kernel_dep there, and no {name!r}"
            ) from None


_STAND_IN = _StandIn(_PEER)
_STAND_IN.deps = _StandIn(f"{_PEER}.deps")
