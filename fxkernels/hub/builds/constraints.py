"""What a build's layers demand of a call: declared in ``metadata.json``, or in ``constraints.json`` beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from ...constraints import ConstraintError, parse
from ...errors import RepositoryError
from ..strict_json import JsonObject, read_limited

FILE_NAME = "constraints.json"
FORM = 'an object that has a list of constraints for each layer, such as {"RMSNorm": ["dim(hidden_states, -1) % 8 == 0"]}'

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
    path = directory / FILE_NAME
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
