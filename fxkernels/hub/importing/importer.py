"""A build as a Python module: imported under its unique id, from verified source only, completely or not at all.

The kernels that it depends on are all found first, then imported from the bottom up, all or none.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import MappingProxyType, ModuleType

import torch

from ...errors import RepositoryError
from ..builds.digests import Digests
from ..builds.metadata import FILE_NAME, Metadata, package_directory
from ..request import RepositoryRequest
from .dependencies import dependencies_visible
from .finder import ImportedBuild, KernelFinder, builds

_NO_DEPENDENCIES: Mapping[str, ModuleType] = MappingProxyType({})

_FINDER = KernelFinder()
# One import at a time, and reentrant: a kernel may ask for another kernel during its own import.
_LOCK = threading.RLock()
# The ids of builds whose import failed. A second failure gets a hint.
_failed: set[str] = set()


def import_variant(
    directory: Path,
    module_name: str,
    repository: str,
    dependencies: Mapping[str, ModuleType] = _NO_DEPENDENCIES,
    *,
    package: Path | None = None,
    expected: Digests | None = None,
) -> ModuleType:
    """Return the build in `directory` as a module; a second call returns the same one.

    Args:
        directory: The variant's directory.
        module_name: The build's id. Builds with different ids live side by side in one process.
        repository: How to name the repository in errors.
        dependencies: The kernels, by repository, that it gets from `fxkernels.get_kernel_dep` while it is imported.
        package: The directory whose ``__init__.py`` is the module, if it is not the variant's.
        expected: The digests of the build's files. Each file is checked once more when it is loaded.

    Raises:
        RepositoryError: With code ``load_error``, if the id belongs to another module or the import fails. It names file and line of the
            failing statement and has the error as its cause. No module of the build, nor of a kernel that was imported only for it, is left
            in `sys.modules` then. With code ``digest``, if a file is not the one that `expected` lists.
    """
    directory = directory.resolve()
    package = directory if package is None else package.resolve()
    if not (package / "__init__.py").is_file():
        raise RepositoryError("load_error", f"{repository} cannot be imported: {package / '__init__.py'} does not exist")
    with _LOCK:
        if module_name in builds and module_name in sys.modules:
            _require_same_directory(directory, module_name, repository)
            return sys.modules[module_name]
        builds.pop(module_name, None)  # the program has removed the module from sys.modules, and gets a new one
        with all_or_nothing(), dependencies_visible(repository, dependencies):
            _require_free_name(directory, module_name, repository)
            return _import(module_name, ImportedBuild(directory, package, repository, expected))


def imported_module(directory: Path, module_name: str) -> ModuleType | None:
    """Return the module of a build that `import_variant` has imported before; None if it has not."""
    with _LOCK:
        build = builds.get(module_name)
        return sys.modules.get(module_name) if build is not None and build.directory == directory.resolve() else None


@contextlib.contextmanager
def all_or_nothing() -> Iterator[None]:
    """Remove every kernel that is imported in the block from the process again, if the block raises.

    It runs one thread at a time, so no other thread can hold a module that is removed.
    """
    with _LOCK:
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)
        before, modules = set(builds), set(sys.modules)
        try:
            yield
        except BaseException:
            for module_name in builds.keys() - before:
                _forget(module_name, modules)
            raise


def _require_same_directory(directory: Path, module_name: str, repository: str) -> None:
    other = builds[module_name].directory
    if other == directory:
        return
    raise RepositoryError(
        "load_error",
        f"{repository} cannot be imported from {directory}: its id {module_name!r} is already taken by the build in {other}\n"
        f"  An id must be unique per build; change it in {FILE_NAME} of one of the two.",
    )


def _require_free_name(directory: Path, module_name: str, repository: str) -> None:
    spec: ModuleSpec | None
    if module_name in sys.modules:
        spec = sys.modules[module_name].__spec__
    else:
        spec = importlib.util.find_spec(module_name)
        # A directory without __init__.py on sys.path is found as a namespace package, and is no module.
        if spec is None or spec.origin is None:
            return
    origin = spec.origin if spec is not None else None
    raise RepositoryError(
        "load_error",
        f"{repository} cannot be imported: {directory / FILE_NAME} gives it the id {module_name!r}, which is the name of another module"
        f"{f' ({origin})' if origin else ''} and would replace it",
    )


def _import(module_name: str, build: ImportedBuild) -> ModuleType:
    builds[module_name] = build
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if not build.refusals:
            raise _failure(module_name, build, error) from error
    if build.refusals:
        raise build.refusals[0]
    return module


def _failure(module_name: str, build: ImportedBuild, error: BaseException) -> RepositoryError:
    message = f"{build.repository} cannot be imported: {type(error).__name__}: {error}\n  at {_where(error, build.directory)}"
    if module_name in _failed:
        message += (
            "\n  It has failed in this process before. Should what torch keeps of that be in the way (a name that was registered already), "
            "start a new process."
        )
    _failed.add(module_name)
    return RepositoryError("load_error", message)


def _forget(module_name: str, modules_before: set[str]) -> None:
    """Remove a build and everything in its directory from the process, so that a later try starts afresh."""
    directory = builds.pop(module_name).directory
    for name, module in list(sys.modules.items()):
        ours = name == module_name or name.startswith(f"{module_name}.")
        # Some kernels import a file of theirs under a name of its own.
        if ours or (name not in modules_before and _is_in(directory, module)):
            del sys.modules[name]
            if isinstance(module, ModuleType):
                _forget_ops(module)


def _is_in(directory: Path, module: ModuleType) -> bool:
    # Not by getattr: an object in sys.modules may be a lazy module that imports a library when an attribute is read.
    file = module.__dict__.get("__file__") if isinstance(module, ModuleType) else None
    return isinstance(file, str) and Path(file).is_relative_to(directory)


def _forget_ops(module: ModuleType) -> None:
    """Delete the module's `torch.library.Library` objects: with the last reference to one, torch forgets the ops that it has defined.

    The error of the failed import refers to the module's globals and would keep them alive.
    """
    for name, value in list(vars(module).items()):
        if isinstance(value, torch.library.Library):
            del vars(module)[name]
            # torch 2.11 keeps what was looked up, and Inductor fails at an op that is gone. Other libraries' ops are looked up anew.
            vars(torch.ops).pop(value.ns, None)


def _where(error: BaseException, directory: Path) -> str:
    """Return ``file:line`` of the statement of the build that failed: the innermost one in its own files."""
    if isinstance(error, SyntaxError) and error.filename is not None and Path(error.filename).is_relative_to(directory):
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(directory)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else str(directory / "__init__.py")


_SHOWN_DIGITS = 7


@dataclass(frozen=True, slots=True)
class Build:
    """A build that may be imported: its repository is trusted, it fits the target, and its files are verified.

    Args:
        name: How errors name the repository.
        revision: The repository's commit; None for a directory.
        directory: The variant's directory.
        metadata: The build's metadata.
        expected: The digests that its files were verified against; None if there are none.
    """

    name: str
    revision: str | None
    directory: Path
    metadata: Metadata
    expected: Digests | None = None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision[:_SHOWN_DIGITS]}"


Find = Callable[[RepositoryRequest], Build]


def import_build(build: Build, find: Find) -> ModuleType:
    """Return a build as a module, after the kernels that it depends on were imported; asked again, the same module.

    Args:
        build: The build.
        find: Returns the build of a dependency, and imports nothing. It checks what was checked for `build`: trust, choice of a variant,
            requirements, digests, the lock.

    Raises:
        RepositoryError: If a dependency cannot be found or imported: the error of `find` or of the import, with the kernel that needs it.
            With code ``load_error``, if kernels depend on each other in a circle. No kernel is left half imported then, and none that was
            imported only for another.
    """
    if (module := imported_module(build.directory, build.metadata.id)) is not None:
        return module
    tree = _tree(build, find, above=())
    with all_or_nothing():
        return _import_tree(tree)


@dataclass(frozen=True, slots=True)
class _Tree:
    build: Build
    dependencies: Mapping[str, _Tree]


def _tree(build: Build, find: Find, above: tuple[Build, ...]) -> _Tree:
    chain = (*above, build)
    # A directory is a repository at a commit: two commits of one repository are two kernels.
    if any(other.directory == build.directory for other in above):
        names = " -> ".join(map(str, chain))
        raise RepositoryError("load_error", f"kernels depend on each other in a circle: {names}; none of them can be imported first")
    dependencies: dict[str, _Tree] = {}
    for dependency in build.metadata.kernel_depends:
        try:
            found = find(dependency)
        except RepositoryError as error:
            raise RepositoryError(error.code, f"{error}\n  {_needed(chain)}") from error
        dependencies[dependency.repo_id] = _tree(found, find, chain)
    return _Tree(build, dependencies)


def _import_tree(tree: _Tree, above: tuple[Build, ...] = ()) -> ModuleType:
    build = tree.build
    chain = (*above, build)
    modules = {repo_id: _import_tree(dependency, chain) for repo_id, dependency in tree.dependencies.items()}
    metadata = build.metadata
    try:
        package = package_directory(build.directory, metadata)
        return import_variant(build.directory, metadata.id, str(build), modules, package=package, expected=build.expected)
    except RepositoryError as error:
        if not above:
            raise
        raise RepositoryError(error.code, f"{error}\n  {_needed(above)}") from error


def _needed(chain: tuple[Build, ...]) -> str:
    """Return whose dependency failed, from the innermost dependant to the outermost kernel."""
    return "needed by " + ", which is needed by ".join(str(build) for build in reversed(chain))
