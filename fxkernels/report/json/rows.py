"""How a report lies in its JSON: what thousands of calls share is a row of a table, and is named by its number."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from types import NoneType
from typing import Any, get_args, get_type_hints

from ...kernels.layer import KernelIdentity
from ...kernels.lowering.lowering import Lowering
from ...passes.gate import Candidate, Gate
from ...passes.miss import Miss
from ..model import GraphDecision
from ..operation import Operation

SCHEMA = "fxkernels.report/1"
"""What the key ``schema`` holds. The number grows when a reader of the last one would misread the text."""

TABLES: dict[type, str] = {
    KernelIdentity: "kernels",
    Lowering: "lowerings",
    Miss: "misses",
    Operation: "operations",
    Gate: "gates",
    Candidate: "candidates",
    GraphDecision: "forms",
}
"""Values that are rows, with the names of their tables. A row names rows of earlier tables only."""

OF_THE_CALL = ("graph", "node", "reads")
"""The fields of a decision that stand at the call. The others are its form, which calls that are decided alike share.

With them, as ``names``, stand the values of `NAMES` in its misses: the rows of those leave them out.
"""

OF_THE_LAYER = ("layer_name", "layer", "location", "annotation")
"""The fields of a call that are a row of the table ``layers``."""

NOT_WRITTEN = ("graphs", "ran")
"""The fields of a report that live in its process."""

_REQUIRED: Any = object()


@dataclass(frozen=True, slots=True)
class Column:
    """One key of a JSON object that stands for a value.

    Args:
        name: The key, and the field.
        kind: The field's type.
        default: What the field is where the key is left out.
    """

    name: str
    kind: Any
    default: Any = _REQUIRED

    @property
    def required(self) -> bool:
        """Whether the key must be there."""
        return self.default is _REQUIRED


@functools.cache
def columns(cls: type, without: tuple[str, ...] = ()) -> tuple[Column, ...]:
    """Return the columns of a dataclass, except for some fields. What has no default but may be None is None where it is left out."""
    kinds = get_type_hints(cls)
    if cls is Candidate:
        kinds["kernel"] = KernelIdentity | None  # for the passes, whose value it is, any object
    found = []
    for field in dataclasses.fields(cls):
        if field.name in without:
            continue
        found.append(Column(field.name, kinds[field.name], _default(field, kinds[field.name])))
    return tuple(found)


def _default(field: dataclasses.Field[Any], kind: Any) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if NoneType in get_args(kind) else _REQUIRED
