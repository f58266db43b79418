"""Constraints as they stand in a JSON file: for each layer a list of texts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ...constraints import ConstraintError, parse
from ...errors import RepositoryError
from .json_fields import JsonObject

FORM = 'an object that has a list of constraints for each layer, such as {"RMSNorm": ["dim(hidden_states, -1) % 8 == 0"]}'


def constraints_in(layers: JsonObject) -> Mapping[str, tuple[str, ...]]:
    """Return the constraints of each layer, parsed once to see that they are some.

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
                raise RepositoryError(
                    "load_error", f"{layers.where}: constraint {number} of layer {layer} cannot be used: {error}"
                ) from error
    return MappingProxyType(found)
