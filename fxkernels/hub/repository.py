"""The values that name a kernel layer in a mapping: a kernel repository and the name of a layer in it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from ..errors import RepositoryError
from ..kernels.layer import KernelIdentity, KernelLayer
from ..target import Target
from .importer import import_variant
from .metadata import read_metadata
from .variants import choose_variant

_LAYOUT = "<repository>/build/<variant>/{metadata.json, __init__.py, layers.py}, e.g. build/torch-universal/"


@dataclass(frozen=True, slots=True, init=False)
class LocalLayerRepository:
    """A layer of a kernel repository that lies on this machine in Hub layout.

    Making one reads nothing: mappings are written before it is known which of their repositories are needed. It is compared, hashed and
    pickled by value.

    Args:
        path: The directory that has ``build/`` in it.
        layer_name: Name of the class in the repository's ``layers``.

    Raises:
        ValueError: If `layer_name` is no name of a class.

    Example:
        >>> mapping = {"RMSNorm": {"cpu": LocalLayerRepository("kernels/norms", layer_name="RMSNorm")}}
    """

    path: Path
    layer_name: str

    def __init__(self, path: str | Path, *, layer_name: str) -> None:
        if not layer_name.isidentifier():
            raise ValueError(f"layer_name={layer_name!r} is no name of a class; it names one in the repository's layers, e.g. 'RMSNorm'")
        # Absolute at once: the value must not change its meaning when the program changes its directory.
        object.__setattr__(self, "path", Path(path).absolute())
        object.__setattr__(self, "layer_name", layer_name)

    def load(self) -> type[nn.Module]:
        """Return the layer's class for this machine, for its accelerator where there is one.

        Raises:
            RepositoryError: As `load_for`.
        """
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return self.load_for(Target.of_machine(accelerator.type if accelerator is not None else "cpu")).cls

    def load_for(self, target: Target) -> KernelLayer:
        """Return the layer from the build that fits `target`.

        Raises:
            RepositoryError: With code ``no_variant`` if no build fits, naming the reason for each; with code ``load_error`` if the
                repository is not in Hub layout, its import fails or it does not have the layer.
        """
        variant = self._variant(target)
        directory = self.path / "build" / variant
        module = import_variant(directory, read_metadata(directory).id, str(self.path))
        identity = KernelIdentity(repository=self.path.name, revision=None, layer=self.layer_name, variant=variant)
        return KernelLayer(self._layer(module), identity)

    def _variant(self, target: Target) -> str:
        build = self.path / "build"
        if not build.is_dir():
            found = "has no build/ directory" if self.path.is_dir() else "is not a directory"
            raise RepositoryError("load_error", f"{self.path} {found}; a kernel repository looks like this: {_LAYOUT}")
        names = [entry.name for entry in build.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__"))]
        choice = choose_variant(names, target)
        if choice.variant is None:
            reasons = [f"\n  {rejected}" for rejected in choice.rejected] or [f"\n  build/ is empty; expected {_LAYOUT}"]
            raise RepositoryError("no_variant", f"{self.path} has no build for {target}:{''.join(reasons)}")
        return choice.variant

    def _layer(self, module: ModuleType) -> type[nn.Module]:
        layers = getattr(module, "layers", None)
        if layers is None:
            raise RepositoryError("load_error", f"{self.path} has no layers: {module.__file__} does not import a module named layers")
        layer = getattr(layers, self.layer_name, None)
        if isinstance(layer, type):
            cls: type[nn.Module] = layer  # whether it is one is the contract's first gate
            return cls
        problem = "has no layer" if layer is None else f"has a {type(layer).__name__}, not a class, for the layer"
        raise RepositoryError("load_error", f"{self.path} {problem} {self.layer_name}; {self._suggestion(module, layers)}")

    def _suggestion(self, module: ModuleType, layers: ModuleType) -> str:
        own = module.__name__
        names = [
            name
            for name, value in vars(layers).items()
            if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__.partition(".")[0] == own
        ]
        nearest = difflib.get_close_matches(self.layer_name, names, n=1)
        hint = f". Did you mean {nearest[0]}?" if nearest else ""
        return f"its layers are: {', '.join(sorted(names)) or '(none)'}{hint}"
