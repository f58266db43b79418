"""Loads kernel layers, each once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from ..errors import REPOSITORY_CODES, RepositoryError
from ..passes.gate import Gate
from ..passes.miss import Miss
from ..target import Target
from .layer import KernelLayer, load_kernel_layer

REPOSITORY = Gate("repository", "candidate", REPOSITORY_CODES)
"""Can the kernel be loaded?"""


@dataclass
class KernelLoader:
    """Remembers what it has loaded: a model has one repository for hundreds of calls.

    Args:
        loaded_for: From a repository of the mapping to the one that is loaded in its place, e.g. the same under a lock.
    """

    loaded_for: Callable[[Any], Any] | None = None
    _loaded: dict[Hashable, tuple[Any, KernelLayer | Miss]] = field(default_factory=dict)

    def load(self, repository: Any, target: Target) -> KernelLayer | Miss:
        """Return the repository's kernel layer for a target, or the miss that says why it cannot be had."""
        key = (id(repository), target)
        if key not in self._loaded:
            try:
                found: KernelLayer | Miss = load_kernel_layer(self.loaded_for(repository) if self.loaded_for else repository, target)
            except RepositoryError as error:
                found = Miss(error.code, "{error}", {"error": str(error)})
            self._loaded[key] = (repository, found)  # the repository stays alive, so that its id stays its own
        return self._loaded[key][1]
