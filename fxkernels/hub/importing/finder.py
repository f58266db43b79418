"""Python's import system for the modules of kernels: it finds verified source and compiled code, never byte code."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import linecache
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from ...errors import RepositoryError
from ..builds.digests import Digests, verify_content, verify_file
from .dependencies import run_module


@dataclass(slots=True)
class ImportedBuild:
    """A build whose modules can be found.

    Args:
        directory: The variant's directory. The paths in its digests are relative to it.
        package: The directory in it, or the same, whose ``__init__.py`` is the module.
        repository: How to name the repository in errors.
        expected: The digests of its files; None if there are none.
        refusals: The errors about changed files. They are raised in the end, even if the kernel catches them.
    """

    directory: Path
    package: Path
    repository: str
    expected: Digests | None
    refusals: list[RepositoryError] = field(default_factory=list)

    def check_source(self, path: Path, content: bytes) -> None:
        """Check the content of a source file that is about to be compiled against the file's digest."""
        if self.expected is not None:
            with self._recorded():
                verify_content(content, path, self._digest(path, self.expected), self.expected.algorithm, self.repository)

    def check_extension(self, path: Path) -> None:
        """Check a file of compiled code against its digest."""
        if self.expected is not None:
            with self._recorded():
                verify_file(path, self._digest(path, self.expected), self.expected.algorithm, self.repository)

    def _digest(self, path: Path, expected: Digests) -> bytes | None:
        return expected.files.get(path.relative_to(self.directory).as_posix()) if path.is_relative_to(self.directory) else None

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[None]:
        try:
            yield
        except RepositoryError as error:
            self.refusals.append(error)
            raise


builds: dict[str, ImportedBuild] = {}
"""The builds whose modules can be found, by id. It is changed under the importer's lock only."""


class KernelFinder(MetaPathFinder):
    """Finds the modules of `builds`. It stays on `sys.meta_path`, because kernels import submodules as late as in their first forward."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, submodule = fullname.partition(".")
        build = builds.get(package)
        if build is None:
            return None
        if not submodule:
            file = str(build.package / "__init__.py")
            loader = _SourceLoader(fullname, file)
            return importlib.util.spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=[str(build.package)])
        for entry in path or ():
            # A new FileFinder each time: one that is kept would not see a file that was added within the same second.
            finder = FileFinder(entry, (_ExtensionLoader, EXTENSION_SUFFIXES), (_SourceLoader, SOURCE_SUFFIXES))
            if (spec := finder.find_spec(fullname)) is not None:
                return spec
        # After None, the next finder would look into the same directory and take byte code there.
        raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


class _SourceLoader(SourceFileLoader):
    """Compiles the source each time. Byte code is neither read (it could differ from the source) nor written."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        content = self.get_data(path)
        # Checked once more, because the file may have changed since the build was verified.
        _build_of(fullname).check_source(Path(path), content)
        code: CodeType = self.source_to_code(content, path)
        # Triton compiles what inspect.getsource returns. That has to be this text too, even if the file changes. linecache never compares
        # an entry without a time of modification with the file.
        text = importlib.util.decode_source(content)
        linecache.cache[path] = (len(content), None, list(io.StringIO(text)), path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        run_module(self.get_code(module.__name__), module)


class _ExtensionLoader(ExtensionFileLoader):
    """Checks compiled code at the last moment before the dynamic linker reads it."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        _build_of(spec.name).check_extension(Path(self.path))
        return super().create_module(spec)


def _build_of(fullname: str) -> ImportedBuild:
    return builds[fullname.partition(".")[0]]
