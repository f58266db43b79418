"""A kernel with the kernels that it depends on: all of them are found first, then imported from the bottom up, all or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ...errors import RepositoryError
from ..builds.digests import Digests
from ..builds.metadata import Metadata, package_directory
from ..request import RepositoryRequest
from .importer import all_or_nothing, import_variant, imported_module

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
        return _import(tree)


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


def _import(tree: _Tree, above: tuple[Build, ...] = ()) -> ModuleType:
    build = tree.build
    chain = (*above, build)
    modules = {repo_id: _import(dependency, chain) for repo_id, dependency in tree.dependencies.items()}
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
