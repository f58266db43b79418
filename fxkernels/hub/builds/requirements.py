"""What a build needs to run: Python packages, and a loader that knows its conventions. Checked before its code is run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shlex
import sys

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from ...errors import RepositoryError
from .metadata import Metadata
from .variants import TvmFfiBuild, parse_variant

UNDERSTOOD = Version("0.17")
"""The release of the `kernels` package whose conventions fxkernels follows, in ``kernels-minver`` and everything else in a repository."""

# Names in `python-depends` that are not those of their packages (kernels 0.17.2: python_depends.json).
_DISTRIBUTIONS = {"tvm-ffi": "apache-tvm-ffi", "onednn": "onednn-devel"}
# Packages whose module has another name than they have.
_MODULES = {"apache-tvm-ffi": "tvm_ffi", "nvidia-cutlass-dsl": "cutlass"}


def check_requirements(metadata: Metadata, where: str, variant: str | None = None) -> None:
    """Raise if this Python installation lacks something that the build needs; nothing is imported.

    ``kernels-minver`` names the first release of the `kernels` package that can load a build. It is compared with `UNDERSTOOD`, by major
    and minor version, not with the release that is installed.

    Args:
        metadata: The build's metadata.
        where: How to name the build in errors.
        variant: The build's directory name. A build for tvm-ffi needs that version of it, even if its metadata does not say so.

    Raises:
        RepositoryError: With code ``load_error``, naming everything that is missing and the command that installs it.
    """
    _check_minver(metadata, where)
    missing: dict[str, str] = {}
    for requirement in (*_requirements(metadata, where), *_tvm_ffi(variant)):
        problem = _problem(requirement)
        if problem is not None:
            missing[f"{requirement.name}{requirement.specifier}"] = problem
    if missing:
        lines = [f"\n  {package}: {problem}" for package, problem in missing.items()]
        command = shlex.join(["pip", "install", *missing])
        raise RepositoryError("load_error", f"{where} needs Python packages that are not here:{''.join(lines)}\n  Install with: {command}")


def _check_minver(metadata: Metadata, where: str) -> None:
    if metadata.minver is None or Version(metadata.minver).release[:2] <= UNDERSTOOD.release:
        return
    raise RepositoryError(
        "load_error",
        f"{where} needs a loader of kernel repositories as of kernels {metadata.minver} (its kernels-minver); "
        f"this fxkernels understands them as of {UNDERSTOOD}\n"
        "  Update it (pip install --upgrade fxkernels), or use an older version of the kernel.",
    )


def _requirements(metadata: Metadata, where: str) -> list[Requirement]:
    """Return the entries of `python-depends` that apply to this Python and system, under the packages' names on the package index."""
    requirements = []
    for text in metadata.python_depends:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            problem = str(error).splitlines()[0]
            raise RepositoryError("load_error", f"{where} depends on {text!r}, which is no Python requirement: {problem}") from None
        if requirement.url is not None:
            raise RepositoryError("load_error", f"{where} depends on {text!r}; it may name packages, not places to get them from")
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            name = canonicalize_name(requirement.name)
            requirement.name = _DISTRIBUTIONS.get(name, name)
            requirements.append(requirement)
    return requirements


def _tvm_ffi(variant: str | None) -> list[Requirement]:
    build = parse_variant(variant) if variant is not None else None
    return [Requirement(f"apache-tvm-ffi=={build.tvm_ffi}.*")] if isinstance(build, TvmFfiBuild) else []


def _problem(requirement: Requirement) -> str | None:
    """Return why a requirement is not met, as a phrase; None if it is."""
    module = _MODULES.get(requirement.name, requirement.name.replace("-", "_"))
    distribution = _distribution(requirement.name, module)
    if distribution is None:
        if not _has_module(module):
            return "not installed"
        # A checkout on sys.path, or a vendored copy.
        return "its module is here, but no package that says which version it is" if requirement.specifier else None
    if not requirement.specifier:
        return None
    versions = distribution.metadata.get_all("Version")
    version = versions[0] if versions else None  # of a package whose description is damaged
    try:
        fits = requirement.specifier.contains(Version(str(version)), prereleases=True)
    except InvalidVersion:
        return f"{version} is installed, which cannot be compared"
    return None if fits else f"{version} is installed"


def _distribution(name: str, module: str) -> importlib.metadata.Distribution | None:
    """Return the installed package of that name, or else the one that has the module: builds of torch call their triton pytorch-triton."""
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        if not _has_module(module):
            return None
    owners = importlib.metadata.packages_distributions().get(module, ())
    return importlib.metadata.distribution(owners[0]) if owners else None


def _has_module(name: str) -> bool:
    """Return whether there is a top-level module of that name. Nothing is imported, as it would be for a submodule."""
    if not name.isidentifier():
        return False
    return sys.modules.get(name) is not None or importlib.util.find_spec(name) is not None
