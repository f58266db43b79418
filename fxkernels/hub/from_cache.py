"""A repository of a mapping as far as this machine has it already: what explaining loads, which fetches nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..kernels.layer import KernelLayer, load_kernel_layer
from ..target import Target
from .remote.client import no_requests
from .repository import machine


@dataclass(frozen=True)
class FromCache:
    """A repository that is loaded without a request, or not at all.

    Args:
        repository: The repository that stands in the mapping.
    """

    repository: Any

    def load(self) -> type[nn.Module]:
        """Return the layer's class for this machine."""
        return self.load_for(machine()).cls

    def load_for(self, target: Target) -> KernelLayer:
        """Return the layer from the build that fits `target`.

        Raises:
            RepositoryError: As the repository, with code ``offline`` where something is not in the cache.
        """
        with no_requests():
            return load_kernel_layer(self.repository, target)
