"""The tensors inside the arguments and outputs of a call, taken out as a list and put back."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return the tensors in `value` in order: itself, or those in tuples, lists, dicts and dataclasses, nested as they may be."""
    found: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    _map(value, note)
    return found


def with_tensors(value: Any, tensors: Sequence[torch.Tensor]) -> Any:
    """Return a copy of `value` with other tensors in the places of those that `tensors_in` lists. Other objects stay."""
    remaining: Iterator[torch.Tensor] = iter(tensors)
    return _map(value, lambda _: next(remaining))


def _map(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, tuple):
        items = [_map(item, function) for item in value]
        return value._make(items) if hasattr(value, "_make") else type(value)(items)
    if isinstance(value, list):
        return [_map(item, function) for item in value]
    if isinstance(value, dict):
        return _with_items(value, {key: _map(item, function) for key, item in value.items()})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        new = copy.copy(value)
        for field in dataclasses.fields(value):
            if hasattr(value, field.name):
                object.__setattr__(new, field.name, _map(getattr(value, field.name), function))  # the dataclass may be frozen
        return new
    return value


def _with_items(value: dict[Any, Any], items: dict[Any, Any]) -> dict[Any, Any]:
    if type(value) is dict:
        return items
    new = copy.copy(
        value
    )  # a subclass may be a dataclass as well, as the outputs of transformers are; its own __setitem__ keeps both in step
    for key, item in items.items():
        new[key] = item
    return new
