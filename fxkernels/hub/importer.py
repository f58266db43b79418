"""A build as a Python module: imported under its unique id, from source only, completely or not at all."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import traceback
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from ..errors import RepositoryError
from .metadata import FILE_NAME


class _SourceLoader(SourceFileLoader):
    """Compiles the source each time. Byte code is neither read (it could say something else than the source) nor written."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


class _KernelFinder(MetaPathFinder):
    """Finds the builds that were asked for, and the modules in them, and nothing else.

    It stays on `sys.meta_path`, because kernels import submodules as late as in their first forward.
    """

    def __init__(self) -> None:
        self.directories: dict[str, Path] = {}

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, submodule = fullname.partition(".")
        directory = self.directories.get(package)
        if directory is None:
            return None
        if not submodule:
            file = directory / "__init__.py"
            return importlib.util.spec_from_file_location(
                fullname, file, loader=_SourceLoader(fullname, str(file)), submodule_search_locations=[str(directory)]
            )
        for entry in path or ():
            # A new FileFinder each time: one that is kept would not see a file that was added within the same second.
            finder = FileFinder(entry, (ExtensionFileLoader, EXTENSION_SUFFIXES), (_SourceLoader, SOURCE_SUFFIXES))
            if (spec := finder.find_spec(fullname)) is not None:
                return spec
        # With None instead, the next finder would look into the same directory and take byte code there.
        raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


_FINDER = _KernelFinder()
# One import at a time, and reentrant: a kernel may ask for another kernel during its own import.
_LOCK = threading.RLock()


def import_variant(directory: Path, module_name: str, repository: str) -> ModuleType:
    """Return the build in `directory` as a module; asked again, the same one.

    Args:
        directory: The variant's directory; ``__init__.py`` in it is the module.
        module_name: The build's id. Builds with different ids live side by side in one process.
        repository: How to name the repository in errors.

    Raises:
        RepositoryError: With code ``load_error``, if the id belongs to another module or the import fails. It then names file and line of
            the failing statement, has what was raised as its cause, and nothing of the build is left in `sys.modules`.
    """
    directory = directory.resolve()
    if not (directory / "__init__.py").is_file():
        raise RepositoryError("load_error", f"{repository} cannot be imported: {directory / '__init__.py'} does not exist")
    with _LOCK:
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)
        if module_name in _FINDER.directories:
            _require_same_directory(directory, module_name, repository)
        else:
            _require_free_name(directory, module_name, repository)
            _FINDER.directories[module_name] = directory
        try:
            return importlib.import_module(module_name)
        except BaseException as error:
            _forget(module_name)
            if not isinstance(error, Exception | SystemExit):
                raise
            message = f"{repository} cannot be imported: {type(error).__name__}: {error}\n  at {_where(error, directory)}"
            raise RepositoryError("load_error", message) from error


def _require_same_directory(directory: Path, module_name: str, repository: str) -> None:
    other = _FINDER.directories[module_name]
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
        # A directory without __init__.py that happens to lie on sys.path is found as a namespace package, and is nobody's module.
        if spec is None or spec.origin is None:
            return
    origin = spec.origin if spec is not None else None
    raise RepositoryError(
        "load_error",
        f"{repository} cannot be imported: {directory / FILE_NAME} gives it the id {module_name!r}, which is the name of another module"
        f"{f' ({origin})' if origin else ''} and would replace it",
    )


def _forget(module_name: str) -> None:
    """Take the module and everything below it out of the process, so that a later try starts afresh."""
    _FINDER.directories.pop(module_name, None)
    for name in [name for name in sys.modules if name == module_name or name.startswith(module_name + ".")]:
        del sys.modules[name]


def _where(error: BaseException, directory: Path) -> str:
    """Return ``file:line`` of the statement of the build that failed: the innermost one in its own files."""
    if isinstance(error, SyntaxError) and error.filename is not None and Path(error.filename).is_relative_to(directory):
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(directory)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else str(directory / "__init__.py")
