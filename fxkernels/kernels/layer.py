"""A kernel layer: the class whose forward stands in for a reference, and where it came from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import RepositoryError

if TYPE_CHECKING:
    from ..target import Target

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class KernelIdentity:
    """Which kernel this is, for reports, errors and records.

    Args:
        repository: The repository's id on the Hub, or the name of its directory.
        revision: The commit, where there is one.
        layer: Name of the layer in it.
        variant: Name of the build that was chosen, if the repository has builds.
        override: The directory that stood in for the repository (``FXKERNELS_LOCAL``), if one did.

    Example:
        >>> str(KernelIdentity("acme/norms", "9a31f0c5" * 5, "RMSNorm", "torch-cpu"))
        'acme/norms@9a31f0c:RMSNorm'
    """

    repository: str
    revision: str | None
    layer: str
    variant: str | None
    override: str | None = None

    def __str__(self) -> str:
        if self.override is not None:
            return f"{self.repository} (local override {self.override}):{self.layer}"
        if self.revision is None:
            return f"{self.repository}:{self.layer}"
        revision = self.revision[:7] if _COMMIT.fullmatch(self.revision) else self.revision
        return f"{self.repository}@{revision}:{self.layer}"


@dataclass(frozen=True, slots=True)
class KernelLayer:
    """A kernel layer that was loaded.

    Args:
        cls: Its class. It is never instantiated; its forward is called with another object as ``self``.
        identity: Where it came from.
        source: The repository and the target that it was loaded for, by which another process loads it again.
        constraints: What it demands of a call, as texts: what its build declares, and what stands beside it in the mapping.
    """

    cls: type[nn.Module]
    identity: KernelIdentity
    source: tuple[Any, Target] | None = field(default=None, compare=False, repr=False)
    constraints: tuple[str, ...] = field(default=(), hash=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # The class lives in a module that only the importer knows; a process that unpickles it has to import the repository first.
        if self.source is not None:
            return load_kernel_layer, self.source
        return KernelLayer, (self.cls, self.identity, None, self.constraints)

    @property
    def has_backward(self) -> bool:
        """Whether it says that a gradient may flow through it. The Hub's convention: yes, unless it says no."""
        return bool(getattr(self.cls, "has_backward", True))

    @property
    def can_torch_compile(self) -> bool:
        """Whether it says that torch.compile can trace it. The Hub's convention: no, unless it says yes."""
        return bool(getattr(self.cls, "can_torch_compile", False))


def load_kernel_layer(repository: Any, target: Target) -> KernelLayer:
    """Return the kernel layer of a repository.

    Args:
        repository: Any object with ``load() -> type[nn.Module]``. One that also has ``load_for(target) -> KernelLayer`` is asked for that
            target; others choose by themselves what fits this machine.
        target: What the kernel is for.

    Raises:
        RepositoryError: If the repository cannot be loaded; what a foreign repository raised is the cause.
    """
    load_for = getattr(repository, "load_for", None)
    try:
        loaded = load_for(target) if load_for is not None else repository.load()
    except RepositoryError:
        raise
    except Exception as error:
        # Foreign code behind a documented protocol: whatever it raises is "this repository cannot be loaded", with its own words.
        raise RepositoryError("load_error", f"{_name(repository)} cannot be loaded: {type(error).__name__}: {error}") from error
    if isinstance(loaded, KernelLayer):
        # A repository that wraps another one hands on what that one has loaded, with its source.
        return loaded if loaded.source is not None else replace(loaded, source=(repository, target))
    if not isinstance(loaded, type):
        raise RepositoryError("load_error", f"{_name(repository)}.load() returned {loaded!r}; it must return a subclass of nn.Module")
    layer = said_by(repository, "layer_name") or loaded.__name__
    identity = KernelIdentity(_name(repository), said_by(repository, "revision"), layer, None)
    return KernelLayer(loaded, identity, (repository, target))


def _name(repository: Any) -> str:
    return said_by(repository, "repo_id") or type(repository).__qualname__


def said_by(repository: Any, attribute: str) -> str | None:
    """Return what a repository says about itself; None for nothing. The `kernels` package (0.17) keeps it under a leading underscore."""
    for name in (attribute, f"_{attribute}"):
        if isinstance(value := getattr(repository, name, None), str):
            return value
    return None
