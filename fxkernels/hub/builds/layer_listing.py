"""The layers of a build, read from its source. Nothing is run, so no trust is needed."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass

_FLAGS = ("has_backward", "can_torch_compile")


@dataclass(frozen=True, slots=True)
class ListedLayer:
    """A class in a repository's ``layers``.

    Args:
        name: Its name.
        signature: The arguments of its forward, without ``self``.
        has_backward: The class attribute; None if the class does not set it.
        can_torch_compile: Likewise.
    """

    name: str
    signature: str
    has_backward: bool | None = None
    can_torch_compile: bool | None = None


def is_layers_file(path: str) -> bool:
    """Return whether a file of a build may define layers: ``layers.py``, or a file in a package of that name."""
    parts = path.split("/")
    return parts[-1] == "layers.py" or (path.endswith(".py") and "layers" in parts[:-1])


def listed_layers(sources: Iterable[str]) -> tuple[ListedLayer, ...]:
    """Return the classes that define a ``forward`` in these sources, by name. A source that cannot be parsed has none."""
    found: dict[str, ListedLayer] = {}
    for source in sources:
        try:
            statements = ast.parse(source).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for statement in statements:
            if isinstance(statement, ast.ClassDef) and (layer := _layer(statement)) is not None:
                found[layer.name] = layer
    return tuple(layer for _, layer in sorted(found.items()))


def _layer(definition: ast.ClassDef) -> ListedLayer | None:
    # An autograd.Function has a forward as well, and a context as its first argument.
    if any(ast.unparse(base).endswith("Function") for base in definition.bases):
        return None
    forward = next((item for item in definition.body if isinstance(item, ast.FunctionDef) and item.name == "forward"), None)
    if forward is None:
        return None
    flags = {name: value for item in definition.body for name, value in _assigned(item) if name in _FLAGS}
    arguments = ast.unparse(forward.args).partition(",")[2].strip()
    return ListedLayer(definition.name, arguments, **flags)


def _assigned(statement: ast.stmt) -> list[tuple[str, bool]]:
    if isinstance(statement, ast.Assign):
        targets, value = statement.targets, statement.value
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets, value = [statement.target], statement.value
    else:
        return []
    if not isinstance(value, ast.Constant) or not isinstance(value.value, bool):
        return []
    return [(target.id, value.value) for target in targets if isinstance(target, ast.Name)]
