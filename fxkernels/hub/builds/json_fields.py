"""The keys of a JSON object that must have a type; whatever does not have it is an error that names file and key."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import RepositoryError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120


@dataclass(frozen=True, slots=True)
class JsonObject:
    """An object in a JSON file.

    Args:
        where: The file, as errors name it.
        values: The object.
        prefix: Where in the file it is, e.g. ``"backend."``.
    """

    where: str
    values: Mapping[str, Any]
    prefix: str = ""

    def has(self, key: str) -> bool:
        """Return whether an optional key is there; ``null`` is as good as nothing."""
        return self.values.get(key) is not None

    def text(self, key: str, expected: str = "a string") -> str:
        """Return a string: not empty, and nothing in it that would take a terminal or a log apart."""
        value = self.values.get(key)
        if not isinstance(value, str) or not value or not value.isprintable():
            raise self.refusal(key, expected)
        return value

    def count(self, key: str) -> int:
        """Return an integer that is not negative."""
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.refusal(key, "an integer, 0 or more")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings, each as `text` wants it."""
        value = self.values.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) and item and item.isprintable() for item in value):
            raise self.refusal(key, "a list of strings")
        return tuple(value)

    def object(self, key: str, expected: str = "an object") -> JsonObject:
        """Return an object in this one."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self.refusal(key, expected)
        return JsonObject(self.where, value, f"{self.prefix}{key}.")

    def objects(self, key: str, expected: str = "a list of objects") -> tuple[JsonObject, ...]:
        """Return a list of objects."""
        value = self.values.get(key)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.refusal(key, expected)
        return tuple(JsonObject(self.where, item, f"{self.prefix}{key}[{index}].") for index, item in enumerate(value))

    def refusal(self, key: str, expected: str) -> RepositoryError:
        """Return the error that says what the key is and what it must be."""
        name = f"{self.prefix}{key}"
        if key not in self.values:
            return RepositoryError("load_error", f"{self.where} lacks the key {name!r}; it must be {expected}")
        return RepositoryError("load_error", f"{self.where}: key {name!r} is {_SHORT.repr(self.values[key])}, it must be {expected}")
