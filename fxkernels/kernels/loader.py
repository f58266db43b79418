"""Loads kernel layers and checks their contract, each once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from ..errors import RepositoryError
from ..passes.miss import Miss
from ..target import Target
from .contract import attributes_exist, has_no_own_state, leaves_the_layer_alone, signature_agrees
from .layer import KernelLayer, load_kernel_layer


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a reference is called, as far as a kernel's contract depends on it.

    Args:
        reference: The annotated class or function.
        signature: Its signature, without ``self``.
        positional: How many arguments the call passes by position.
        keywords: The names that it passes by keyword.
        attributes: What the layer has for a kernel to read.
    """

    reference: Any
    signature: inspect.Signature
    positional: int
    keywords: tuple[str, ...]
    attributes: frozenset[str]


@dataclass
class KernelLoader:
    """Remembers what it loaded and checked: a model has one repository for hundreds of calls, and few forms of calls.

    Args:
        loaded_for: From a repository of the mapping to the one that is loaded in its place, e.g. the same under a lock.
    """

    loaded_for: Callable[[Any], Any] | None = None
    _loaded: dict[Hashable, tuple[Any, KernelLayer | Miss]] = field(default_factory=dict)
    _contracts: dict[Hashable, Miss | None] = field(default_factory=dict)

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

    def contract(self, kernel: KernelLayer, form: CallForm) -> Miss | None:
        """Return why the kernel layer cannot stand in for a reference that is called like this, or None."""
        key = (kernel.cls, form.reference, form.positional, form.keywords, form.attributes)
        if key not in self._contracts:
            self._contracts[key] = (
                has_no_own_state(kernel)
                or leaves_the_layer_alone(kernel)
                or signature_agrees(kernel, form.signature, form.positional, form.keywords)
                or attributes_exist(kernel, form.attributes)
            )
        return self._contracts[key]
