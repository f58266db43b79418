"""What a build says about itself, read and validated without running it.

It says it in ``metadata.json``, in ``constraints.json`` beside that, and in the source of its layers.
"""

from __future__ import annotations

import ast
import base64
import binascii
import hashlib
import keyword
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...constraints import ConstraintError, parse
from ...errors import RepositoryError
from ..request import RepositoryRequest, request_in
from ..strict_json import JsonObject, read_limited
from .digests import Digests
from .paths import check_relative_path

FILE_NAME = "metadata.json"

_REQUIRED = ("name", "id", "version", "license", "python-depends", "backend")
_OPTIONAL = ("upstream", "source", "kernels-minver", "kernel-depends", "digest", "provenance", "constraints")
_ALGORITHMS = ("sha256", "sha512")
_MINVER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}")


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
        kernel_depends: Kernel repositories that it asks for while it is imported.
        minver: The oldest release of the `kernels` package that can load it, e.g. ``"0.17.0"``.
        upstream: Where the kernel comes from, a URL.
        source: Where the source of this build is, a URL.
        digest: What its files must hash to.
        provenance: What it was built with and from, as in the file.
        constraints: What its layers demand of a call.
        other: All other keys, as in the file. The format grows, so an unknown key is no error.
    """

    name: str
    id: str
    version: int
    license: str
    python_depends: tuple[str, ...]
    backend: str
    archs: tuple[str, ...] | None = None
    kernel_depends: tuple[RepositoryRequest, ...] = ()
    minver: str | None = None
    upstream: str | None = None
    source: str | None = None
    digest: Digests | None = None
    provenance: Mapping[str, Any] | None = field(default=None, hash=False)
    constraints: Constraints = field(default_factory=lambda: MappingProxyType({}), hash=False)
    other: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    @property
    def python_name(self) -> str:
        """The kernel's name as that of a Python package: ``"flash_norms"`` for ``"flash-norms"``."""
        return self.name.replace("-", "_")


def read_metadata(directory: Path) -> Metadata:
    """Return the metadata of the build variant in `directory`.

    Raises:
        RepositoryError: With code ``load_error``, naming the file and the key that is missing or wrong.
    """
    path = directory / FILE_NAME
    content = read_limited(path)
    if content is None:
        raise RepositoryError("load_error", f"{path} does not exist; every build variant needs one with the keys: {', '.join(_REQUIRED)}")
    return parse_metadata(content, str(path))


def parse_metadata(content: bytes, where: str) -> Metadata:
    """Return the metadata that the content of a ``metadata.json`` holds; `where` is its name in errors.

    Raises:
        RepositoryError: As `read_metadata`.
    """
    fields = JsonObject.parse(content, where)
    for key in _REQUIRED:
        if key not in fields.values:
            raise RepositoryError("load_error", f"{where} lacks the key {key!r}; required are: {', '.join(_REQUIRED)}")
    backend = fields.object("backend", 'an object such as {"type": "cpu"}')
    return Metadata(
        name=fields.text("name"),
        id=_module_name(fields),
        version=fields.count("version"),
        license=fields.text("license"),
        python_depends=fields.texts("python-depends"),
        backend=backend.text("type", 'a string such as "cpu"'),
        archs=backend.texts("archs") if backend.has("archs") else None,
        kernel_depends=_kernel_depends(fields),
        minver=fields.text("kernels-minver", 'a release such as "0.17.0"', _MINVER) if fields.has("kernels-minver") else None,
        upstream=fields.text("upstream") if fields.has("upstream") else None,
        source=fields.text("source") if fields.has("source") else None,
        digest=_digests(fields) if fields.has("digest") else None,
        provenance=MappingProxyType(dict(fields.object("provenance").values)) if fields.has("provenance") else None,
        constraints=constraints_in(fields.object("constraints", _CONSTRAINTS_FORM)) if fields.has("constraints") else MappingProxyType({}),
        other=MappingProxyType({key: value for key, value in fields.values.items() if key not in _REQUIRED + _OPTIONAL}),
    )


def package_directory(directory: Path, metadata: Metadata) -> Path:
    """Return the directory whose ``__init__.py`` is a build's module: the variant's, or in older builds one in it with the kernel's name.

    Raises:
        RepositoryError: With code ``load_error``, if there is neither.
    """
    if (directory / "__init__.py").is_file():
        return directory
    # Only a name that can be a package's may become part of a path.
    older = directory / metadata.python_name if metadata.python_name.isidentifier() else None
    if older is not None and (older / "__init__.py").is_file():
        return older
    alternative = f" nor, as in older builds, {older.name}/__init__.py" if older is not None else ""
    raise RepositoryError("load_error", f"{directory} has nothing to import: neither __init__.py{alternative}")


def _module_name(fields: JsonObject) -> str:
    """Return the id, which becomes a module's name. (A kernel with the id ``colorsys`` once replaced the standard library's module.)"""
    name = fields.text("id")
    # ASCII: Python normalizes other spellings of a letter in an import statement, but not in sys.modules.
    if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name):
        raise fields.refusal("id", "a Python identifier in ASCII: it becomes a module's name")
    if name in sys.stdlib_module_names or name in sys.builtin_module_names:
        raise fields.refusal("id", "another name than that of a module of the standard library, which it would replace")
    return name


def _kernel_depends(fields: JsonObject) -> tuple[RepositoryRequest, ...]:
    if not fields.has("kernel-depends"):
        return ()
    dependencies: dict[str, RepositoryRequest] = {}
    for entry in fields.objects("kernel-depends", 'a list of objects such as {"repo-id": "acme/norms", "version": 1}'):
        repo_id = entry.text("repo-id", 'a repository such as "acme/norms"')
        if repo_id in dependencies:
            raise RepositoryError("load_error", f"{fields.where}: key 'kernel-depends' has {repo_id} twice; a kernel gets one build of it")
        dependencies[repo_id] = request_in(entry, repo_id)
    return tuple(dependencies.values())


def _digests(fields: JsonObject) -> Digests:
    digest = fields.object("digest", 'an object such as {"algorithm": "sha256", "files": {}}')
    algorithm = digest.text("algorithm")
    if algorithm not in _ALGORITHMS:
        raise digest.refusal("algorithm", f"one of {', '.join(_ALGORITHMS)}")
    size = hashlib.new(algorithm).digest_size
    files = digest.object("files", "an object that has a path and a digest for each file")
    where = f"{fields.where}: key 'digest.files'"
    return Digests(
        algorithm, MappingProxyType({check_relative_path(path, where): _digest(files, path, algorithm, size) for path in files.values})
    )


def _digest(files: JsonObject, path: str, algorithm: str, size: int) -> bytes:
    try:
        digest = base64.b64decode(files.text(path), validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != size:
        raise files.refusal(path, f"the {algorithm} digest of the file, {size} bytes in base64")
    return digest


_CONSTRAINTS_FILE = "constraints.json"
_CONSTRAINTS_FORM = 'an object that has a list of constraints for each layer, such as {"RMSNorm": ["dim(hidden_states, -1) % 8 == 0"]}'

Constraints = Mapping[str, tuple[str, ...]]
"""The constraints of each layer that has some, as texts."""


def declared_constraints(directory: Path, in_metadata: Constraints) -> Constraints:
    """Return the constraints that a build declares for each layer: those in its metadata, then those in ``constraints.json``.

    Args:
        directory: The build's directory. Its files have been verified.
        in_metadata: The constraints in the build's metadata.

    Raises:
        RepositoryError: With code ``load_error``, naming the file, the layer, the clause and the place in it.
    """
    path = directory / _CONSTRAINTS_FILE
    content = read_limited(path)
    if content is None:
        return in_metadata
    beside = constraints_in(JsonObject.parse(content, str(path)))
    layers = dict.fromkeys((*in_metadata, *beside))
    return {layer: (*in_metadata.get(layer, ()), *beside.get(layer, ())) for layer in layers}


def constraints_in(layers: JsonObject) -> Constraints:
    """Return the constraints of each layer in a JSON object. Each was parsed once.

    Raises:
        RepositoryError: With code ``load_error``, naming the file, the layer, the clause and the place in it.
    """
    found: dict[str, tuple[str, ...]] = {}
    for layer in layers.values:
        found[layer] = texts = layers.texts(layer)
        for number, text in enumerate(texts, 1):
            try:
                parse(text)
            except ConstraintError as error:
                message = f"{layers.where}: constraint {number} of layer {layer} cannot be used: {error}"
                raise RepositoryError("load_error", message) from error
    return MappingProxyType(found)


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
