"""JSON that others have written, read without guessing: bounded size, one value per key, and each key of the type that it must have.

Errors name the file and the key.
"""

from __future__ import annotations

import json
import re
import reprlib
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from ..errors import RepositoryError

SIZE_LIMIT = 4 * 1024 * 1024
"""In bytes, for the files of a build. A digest takes about 120 per file, and a build has dozens of files, not thousands."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120


def read_limited(path: Path, limit: int = SIZE_LIMIT) -> bytes | None:
    """Return the content of a file of at most `limit` bytes; None if there is no such file.

    Raises:
        RepositoryError: With code ``load_error``, if it cannot be read, is larger, or is no regular file: reading a pipe or a device might
            never end.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is no regular file")
        with path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise ValueError(f"it is larger than {limit:,} bytes, more than any file of its kind needs")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RepositoryError("load_error", f"{path} cannot be read: {error}") from error
    return content


def parse_object(content: bytes) -> dict[str, Any]:
    """Return the JSON object that `content` holds.

    Raises:
        ValueError: If it is no JSON object, has a key twice in one object (parsers differ on which one counts, so the reviewed value need
            not be the one that is used), has a number that JSON does not have, or is nested too deeply.
    """
    try:
        value = json.loads(content, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"it holds a JSON {type(value).__name__}, it must hold an object")
    return value


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

    @classmethod
    def parse(cls, content: bytes, where: str) -> JsonObject:
        """Return the object that the content of a file holds.

        Raises:
            RepositoryError: With code ``load_error``, for everything that `parse_object` refuses.
        """
        try:
            return cls(where, parse_object(content))
        except ValueError as error:
            raise RepositoryError("load_error", f"{where} cannot be read as JSON: {error}") from error

    @property
    def name(self) -> str:
        """The key under which it is in the file, e.g. ``"backend"``."""
        return self.prefix.rstrip(".")

    def has(self, key: str) -> bool:
        """Return whether an optional key is there and not ``null``."""
        return self.values.get(key) is not None

    def text(self, key: str, expected: str = "a string", pattern: re.Pattern[str] | None = None) -> str:
        """Return a string that is not empty, has only printable characters and matches the pattern."""
        value = self.values.get(key)
        if not _is_text(value) or (pattern is not None and not pattern.fullmatch(value)):
            raise self.refusal(key, expected)
        return value

    def count(self, key: str) -> int:
        """Return an integer that is not negative."""
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.refusal(key, "an integer, 0 or more")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings, each as `text` returns it."""
        value = self.values.get(key)
        if not isinstance(value, list) or not all(map(_is_text, value)):
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


def _is_text(value: Any) -> TypeGuard[str]:
    # Printable: an escape sequence could rewrite a terminal, a line break could forge a line of a log.
    return isinstance(value, str) and value != "" and value.isprintable()


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {key!r} is in one object twice")
        content[key] = value
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
