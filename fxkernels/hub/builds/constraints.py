"""What a build's layers demand of a call: declared in ``metadata.json``, or in ``constraints.json`` beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...errors import RepositoryError
from .constraint_texts import constraints_in
from .json_fields import JsonObject
from .metadata import SIZE_LIMIT, Metadata
from .strict_json import parse_object, read_limited

FILE_NAME = "constraints.json"


def declared_constraints(directory: Path, metadata: Metadata) -> Mapping[str, tuple[str, ...]]:
    """Return the constraints of each layer that has some: those in the metadata, then those in the file.

    Args:
        directory: The build's directory. Its files have been verified.
        metadata: The build's metadata.

    Raises:
        RepositoryError: With code ``load_error``, naming the file, the layer, the clause and the place in it.
    """
    path = directory / FILE_NAME
    try:
        content = read_limited(path, SIZE_LIMIT)
    except FileNotFoundError:
        return metadata.constraints
    except (OSError, ValueError) as error:
        raise RepositoryError("load_error", f"{path} cannot be read: {error}") from error
    try:
        values = parse_object(content)
    except ValueError as error:
        raise RepositoryError("load_error", f"{path} cannot be read as JSON: {error}") from error
    beside = constraints_in(JsonObject(str(path), values))
    names = dict.fromkeys((*metadata.constraints, *beside))
    return {name: (*metadata.constraints.get(name, ()), *beside.get(name, ())) for name in names}
