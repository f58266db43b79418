"""From the name of a repository to the class of a layer: open it, choose the build that fits, check and fetch it, import it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from types import ModuleType

from torch import nn

from ..errors import RepositoryError
from ..kernels.layer import KernelIdentity, KernelLayer
from ..target import Target
from .builds.metadata import Metadata, declared_constraints
from .builds.requirements import check_requirements
from .builds.variants import RejectedVariant, choose_variant, why_not_arch
from .importing.importer import Build, import_build
from .remote.hub_snapshot import HubSnapshot
from .remote.resolve import resolve
from .remote.trust import require_trust
from .request import RepositoryRequest
from .snapshot import LAYOUT, LocalSnapshot, Snapshot, local_override

Open = Callable[[RepositoryRequest], Snapshot]
"""Opens a repository that a kernel depends on. It checks whether that one's code may run."""


def open_repository(request: RepositoryRequest, trust_remote_code: bool | Sequence[str]) -> LocalSnapshot | HubSnapshot:
    """Return a repository in the requested state: the user's override, or else the Hub's, if its code may run.

    Of a repository on the Hub, only the commit and the publisher are asked for.

    Args:
        request: The repository, and its version or revision.
        trust_remote_code: See `fxkernels.hub.remote.trust`.

    Raises:
        RepositoryError: With code ``untrusted`` if its code may not run; as `fxkernels.hub.remote.resolve.resolve` if it cannot be found.
        ValueError: If ``FXKERNELS_LOCAL`` is malformed.
    """
    directory = local_override(request.repo_id)
    if directory is not None:
        return LocalSnapshot(directory, overrides=request.repo_id)
    return open_commit(request, trust_remote_code)


def open_commit(request: RepositoryRequest, trust_remote_code: bool | Sequence[str]) -> HubSnapshot:
    """Return a repository on the Hub at the commit of a request, if its code may run.

    Raises:
        RepositoryError: As `open_repository`.
    """
    commit = resolve(request)
    require_trust(request.repo_id, commit, trust_remote_code)
    return HubSnapshot(request.repo_id, commit)


def load_layer(
    snapshot: Snapshot,
    layer_name: str,
    target: Target,
    *,
    dependencies: Open,
    when: tuple[str, ...] = (),
) -> KernelLayer:
    """Return a layer of the build that fits `target`.

    Args:
        snapshot: The repository in one state, whose code may run.
        layer_name: Name of the class in the repository's ``layers``.
        target: What the kernel is for.
        dependencies: Opens the repositories that the build depends on, directly or indirectly.
        when: Constraints on the calls for which it is used, in addition to those that the build declares.

    Raises:
        RepositoryError: With code ``no_variant`` if no build fits, naming the reason for each; ``digest`` if a file is not the published
            one; ``offline`` if a file is not in the cache and cannot be fetched; ``load_error`` if the repository is not in Hub layout,
            needs a package that is not installed, declares malformed constraints, cannot be imported or does not have the layer.
    """
    variant, build = find_build(snapshot, target)
    declared = declared_constraints(build.directory, build.metadata.constraints)
    module = import_build(build, lambda dependency: find_build(dependencies(dependency), target)[1])
    override = str(snapshot.path) if isinstance(snapshot, LocalSnapshot) and snapshot.overrides is not None else None
    identity = KernelIdentity(snapshot.name, snapshot.revision, layer_name, variant, override)
    layer = _layer(module, layer_name, snapshot.where)
    for name in declared:
        _layer(module, name, f"{snapshot.where} declares constraints for {name}, and")
    return KernelLayer(layer, identity, constraints=(*declared.get(layer_name, ()), *when))


def find_build(snapshot: Snapshot, target: Target) -> tuple[str, Build]:
    """Return the name of the best build for `target`, and the build, with its requirements checked and its files verified.

    Raises:
        RepositoryError: As `load_layer`.
    """
    variant, metadata = choose_build(snapshot, target)
    check_requirements(metadata, f"{snapshot.where} ({variant})", variant)
    directory = snapshot.directory(variant)
    expected = snapshot.verify(variant)
    name = snapshot.name if snapshot.revision is not None else snapshot.where
    return variant, Build(name, snapshot.revision, directory, metadata, expected)


def choose_build(snapshot: Snapshot, target: Target) -> tuple[str, Metadata]:
    """Return the name and the metadata of the best build for `target`.

    Raises:
        RepositoryError: With code ``no_variant`` if none fits, naming the reason for each.
    """
    choice = choose_variant(snapshot.variants(), target)
    rejected = list(choice.rejected)
    for name in choice.fitting:
        metadata = snapshot.metadata(name)
        reason = why_not_arch(metadata, target)
        if reason is None:
            return name, metadata
        rejected.append(RejectedVariant(name, reason))
    reasons = [f"\n  {build}" for build in sorted(rejected, key=lambda build: build.name)] or [f"\n  build/ is empty; expected {LAYOUT}"]
    raise RepositoryError("no_variant", f"{snapshot.where} has no build for {target}:{''.join(reasons)}")


def _layer(module: ModuleType, layer_name: str, where: str) -> type[nn.Module]:
    layers = getattr(module, "layers", None)
    if layers is None:
        raise RepositoryError("load_error", f"{where} has no layers: {module.__file__} does not import a module named layers")
    layer = getattr(layers, layer_name, None)
    if isinstance(layer, type):
        cls: type[nn.Module] = layer  # the contract's first gate checks that it is one
        return cls
    problem = "has no layer" if layer is None else f"has a {type(layer).__name__}, not a class, for the layer"
    raise RepositoryError("load_error", f"{where} {problem} {layer_name}; {_suggestion(module, layers, layer_name)}")


def _suggestion(module: ModuleType, layers: ModuleType, layer_name: str) -> str:
    own = module.__name__
    names = [
        name
        for name, value in vars(layers).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__.partition(".")[0] == own
    ]
    nearest = difflib.get_close_matches(layer_name, names, n=1)
    hint = f". Did you mean {nearest[0]}?" if nearest else ""
    return f"its layers are: {', '.join(sorted(names)) or '(none)'}{hint}"
