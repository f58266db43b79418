"""A kernel layer of a repository that lies on this machine, as the value that stands in a mapping."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..constraints import ConstraintError, parse
from ..kernels.layer import KernelLayer
from ..target import Target
from .loading import load_layer
from .opening import open_repository
from .snapshot import LocalSnapshot


@dataclass(frozen=True, slots=True, init=False)
class LocalLayerRepository:
    """A layer of a kernel repository that lies on this machine in Hub layout.

    Making one reads nothing: mappings are written before it is known which of their repositories are needed. It is compared, hashed and
    pickled by value.

    Args:
        path: The directory that has ``build/`` in it.
        layer_name: Name of the class in the repository's ``layers``.
        when: Constraints on the calls for which it is used, besides those that the repository declares: one text or several.

    Raises:
        ValueError: If `layer_name` is no name of a class, or a text in `when` no constraint; it shows where and what would be one.
        TypeError: If `when` is neither a string nor a sequence of strings.

    Example:
        >>> mapping = {"RMSNorm": {"cpu": LocalLayerRepository("kernels/norms", layer_name="RMSNorm")}}
    """

    path: Path
    layer_name: str
    when: tuple[str, ...]

    def __init__(self, path: str | Path, *, layer_name: str, when: str | Sequence[str] = ()) -> None:
        # Absolute at once: the value must not change its meaning when the program changes its directory.
        object.__setattr__(self, "path", Path(path).absolute())
        object.__setattr__(self, "layer_name", check_layer_name(layer_name))
        object.__setattr__(self, "when", check_when(when))

    def load(self) -> type[nn.Module]:
        """Return the layer's class for this machine, for its accelerator where there is one.

        Raises:
            RepositoryError: As `load_for`.
        """
        return self.load_for(machine()).cls

    def load_for(self, target: Target) -> KernelLayer:
        """Return the layer from the build that fits `target`.

        Raises:
            RepositoryError: With code ``no_variant`` if no build fits, naming the reason for each; with code ``load_error`` if the
                repository is not in Hub layout, its import fails or it does not have the layer; with code ``digest`` if its metadata has
                digests and a file is another one.
        """
        # What it depends on comes from the Hub, from publishers that are trusted there: nobody has said more.
        find = functools.partial(open_repository, trust_remote_code=False)
        return load_layer(LocalSnapshot(self.path), self.layer_name, target, dependencies=find, when=self.when)


def check_layer_name(layer_name: str) -> str:
    """Return the name, or raise a ValueError if no class can have it."""
    if not isinstance(layer_name, str) or not layer_name.isidentifier():
        raise ValueError(f"layer_name={layer_name!r} is no name of a class; it names one in the repository's layers, e.g. 'RMSNorm'")
    return layer_name


def check_when(when: str | Sequence[str]) -> tuple[str, ...]:
    """Return the constraints of a ``when=``, or raise a ValueError that says what is no constraint in it, and where."""
    texts = (when,) if isinstance(when, str) else when
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"when= is a constraint such as 'dim(x, -1) % 8 == 0', or a sequence of them, not {when!r}")
    for text in texts:
        try:
            parse(text)
        except ConstraintError as error:
            raise ValueError(f"when= has a text that is no constraint: {error}") from None
    return tuple(texts)


def machine() -> Target:
    """Return the target that this machine is, with its accelerator where there is one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return Target.of_machine(accelerator.type if accelerator is not None else "cpu")
