"""Module paths of the models that one backend has seen."""

from __future__ import annotations

import re
import weakref

from torch import fx, nn

from ..annotate import Annotation, annotated_forward, annotation_of


class ModulePaths:
    """From module objects to their paths, without keeping a model alive.

    Dynamo names a module as the compiled frame reaches it (``self.norm``); after a graph break, or when a child is called on its own,
    that is not its path in the model. So the first module that a frame is compiled for is taken as the root, and its children are looked
    up by identity.
    """

    def __init__(self) -> None:
        self._paths: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        self._annotated: dict[str, tuple[Annotation, bool]] = {}
        self.model = ""
        """The class of the first root."""

    def add_root(self, root: nn.Module) -> None:
        """Learn the paths below a root, unless the module is already known."""
        if root in self._paths:
            return
        for path, module in root.named_modules():
            self.put(module, path)

    def put(self, module: nn.Module, path: str) -> None:
        """Learn the path of one module."""
        self._paths.setdefault(module, path)
        if not path and not self.model:
            # torch.fx gives each graph module a class of its own, with the name of the model's.
            self.model = type(module).__name__ if isinstance(module, fx.GraphModule) else type(module).__qualname__
        annotation = annotation_of(module)
        if annotation is not None:
            self._annotated.setdefault(path, (annotation, annotated_forward(module) is None))

    def get(self, module: nn.Module) -> str | None:
        """Return the module's path, or None if it belongs to no known root."""
        return self._paths.get(module)

    def by_identity(self) -> dict[int, str]:
        """Return the paths by the identities of the modules, for as long as these are alive."""
        return {id(module): path for module, path in self._paths.items()}

    @property
    def annotated(self) -> dict[str, tuple[Annotation, bool]]:
        """Paths of all annotated modules, with their annotations and whether they override the annotated forward."""
        return dict(self._annotated)


def without_root(name: str) -> str:
    """Return a module's path by Dynamo's name for it: ``L['self'].layers.0.norm`` -> ``layers.0.norm``."""
    return re.sub(r"^[A-Z]+\['[^']*'\]\.?", "", name)
