"""What a build says about itself: ``metadata.json``, read and validated."""

from __future__ import annotations

import json
import keyword
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import RepositoryError

FILE_NAME = "metadata.json"
_REQUIRED = ("name", "id", "version", "license", "python-depends", "backend")


@dataclass(frozen=True, slots=True)
class Metadata:
    """The description of one build variant.

    Args:
        name: Name of the kernel, e.g. ``"norms"``.
        id: Unique per build. The module name under which it is imported, and its `torch.ops` namespace.
        version: The kernel's interface version.
        license: Its license, e.g. ``"apache-2.0"``.
        python_depends: Python packages that it imports.
        backend: What it was built for, e.g. ``"cpu"`` or ``"cuda"``.
        archs: The architectures it was compiled for, e.g. ``("9.0a", "10.0+PTX")``; None if it does not say.
        other: All other keys as they stand in the file. The format grows; a key we do not know is no error.
    """

    name: str
    id: str
    version: int
    license: str
    python_depends: tuple[str, ...]
    backend: str
    archs: tuple[str, ...] | None = None
    other: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)


def read_metadata(directory: Path) -> Metadata:
    """Return the metadata of the build variant in `directory`.

    Raises:
        RepositoryError: With code ``load_error``, naming the file and the key that is missing or wrong.
    """
    path = directory / FILE_NAME
    content = _read_object(path)
    for key in _REQUIRED:
        if key not in content:
            raise RepositoryError("load_error", f"{path} lacks the key {key!r}; required are: {', '.join(_REQUIRED)}")
    backend = _typed(path, content, "backend", dict, 'an object such as {"type": "cpu"}')
    if not isinstance(backend.get("type"), str):
        raise RepositoryError("load_error", f"{path}: key 'backend.type' is {backend.get('type')!r}, it must be a string such as \"cpu\"")
    return Metadata(
        name=_typed(path, content, "name", str, "a string"),
        id=_module_name(path, _typed(path, content, "id", str, "a string")),
        version=_typed(path, content, "version", int, "an integer"),
        license=_typed(path, content, "license", str, "a string"),
        python_depends=_strings(path, "python-depends", content["python-depends"]),
        backend=backend["type"],
        archs=_strings(path, "backend.archs", backend["archs"]) if backend.get("archs") is not None else None,
        other=MappingProxyType({key: value for key, value in content.items() if key not in _REQUIRED}),
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RepositoryError("load_error", _missing_file(path)) from None
    except (OSError, ValueError) as error:
        raise RepositoryError("load_error", f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise RepositoryError("load_error", f"{path} holds a JSON {type(content).__name__}, it must hold an object")
    return content


def _missing_file(path: Path) -> str:
    nested = sorted(init.parent.name for init in path.parent.glob("*/__init__.py"))
    if nested and not (path.parent / "__init__.py").exists():
        older = f"{path.parent} is in the older layout (<variant>/{nested[0]}/__init__.py)"
        return f"{path} does not exist; {older}, which is not supported: rebuild the kernel"
    return f"{path} does not exist; every build variant needs one with the keys: {', '.join(_REQUIRED)}"


def _typed(path: Path, content: dict[str, Any], key: str, kind: type, expected: str) -> Any:
    value = content[key]
    if not isinstance(value, kind) or isinstance(value, bool) or value == "":
        raise RepositoryError("load_error", f"{path}: key {key!r} is {value!r}, it must be {expected}")
    return value


def _strings(path: Path, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RepositoryError("load_error", f"{path}: key {key!r} is {value!r}, it must be a list of strings")
    return tuple(value)


def _module_name(path: Path, name: str) -> str:
    """Check that the id can be a module name; a kernel with the id ``colorsys`` has replaced the standard library's module before."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise RepositoryError("load_error", f"{path}: key 'id' is {name!r}, it must be a Python identifier: it becomes a module's name")
    if name in sys.stdlib_module_names or name in sys.builtin_module_names:
        raise RepositoryError("load_error", f"{path}: key 'id' is {name!r}, a module of the standard library, which it would replace")
    return name
