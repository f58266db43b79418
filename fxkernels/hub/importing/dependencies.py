"""The kernels that a kernel depends on, as it sees them: those that its metadata declares, and only while it is imported.

Kernels call ``get_kernel_dep(repo_id)``, which they import from fxkernels or from the `kernels` package. The latter need not be installed,
and is not modified: in a kernel's modules only, the import statement returns `_KernelsPackage` for its name.
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

_KERNELS = "kernels"
# The modules of that package that have get_kernel_dep.
_HAVE_GET_KERNEL_DEP = (_KERNELS, f"{_KERNELS}.deps")


@dataclass(frozen=True, slots=True)
class _Dependant:
    repository: str
    dependencies: Mapping[str, ModuleType]


# A context variable, because another thread may call a kernel while this one imports one.
_importing: ContextVar[_Dependant | None] = ContextVar("fxkernels_importing", default=None)


def get_kernel_dep(repo_id: str) -> ModuleType:
    """Return the kernel `repo_id` to a kernel that depends on it.

    It is for code in a kernel repository that runs when the kernel is imported. The dependant's metadata has the version, under
    ``kernel-depends``.

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
def dependencies_visible(repository: str, dependencies: Mapping[str, ModuleType]) -> Iterator[None]:
    """Let `get_kernel_dep` return these modules, and no others, while the block imports `repository`."""
    token = _importing.set(_Dependant(repository, dependencies))
    try:
        yield
    finally:
        _importing.reset(token)


def run_module(code: CodeType, module: ModuleType) -> None:
    """Run the code of a kernel's module. If it names the `kernels` package, its import statement gets `get_kernel_dep` from here."""
    if _names_kernels(code):
        # Only then: compilers look into a module's builtins, and expect ordinary ones.
        module.__dict__["__builtins__"] = vars(builtins) | {"__import__": _import}
    exec(code, module.__dict__)


def _names_kernels(code: CodeType) -> bool:
    if any(name == _KERNELS or name.startswith(f"{_KERNELS}.") for name in code.co_names):
        return True
    return any(_names_kernels(constant) for constant in code.co_consts if isinstance(constant, CodeType))


def _import(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    if level or name.partition(".")[0] != _KERNELS:
        return builtins.__import__(name, globals, locals, fromlist, level)
    if name not in _HAVE_GET_KERNEL_DEP:
        module = builtins.__import__(name, globals, locals, fromlist, level)
        # `import kernels.layer` binds the name `kernels`; `from kernels.layer import x` takes x from the returned module.
        return module if fromlist else _PACKAGE
    return _PACKAGE.deps if fromlist and name != _KERNELS else _PACKAGE


class _KernelsPackage(ModuleType):
    """The `kernels` package as a kernel sees it: our `get_kernel_dep`, and the package's own attributes if it is installed."""

    get_kernel_dep = staticmethod(get_kernel_dep)
    deps: _KernelsPackage

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # for the import system, which must not get the package's
            raise AttributeError(name)
        try:
            return getattr(importlib.import_module(self.__name__), name)
        except ModuleNotFoundError as error:
            if error.name != _KERNELS:
                raise
            raise AttributeError(
                f"the package {_KERNELS!r} is not installed; without it, kernels find {_KERNELS}.get_kernel_dep there, and no {name!r}"
            ) from None


_PACKAGE = _KernelsPackage(_KERNELS)
_PACKAGE.deps = _KernelsPackage(f"{_KERNELS}.deps")
