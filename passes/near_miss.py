"""How far the best attempt to match a pattern got where there is no match, as a sentence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

from torch import fx

from .patterns import Pattern


@dataclass(frozen=True, slots=True, eq=False)
class NearMiss:
    """The attempt that got furthest.

    Args:
        pattern: The pattern.
        matched: How many of its operations were matched.
        text: Where it ended and what differs there, as a sentence. It holds no node, so a graph need not live as long as its report.
    """

    pattern: Pattern
    matched: int
    text: str


def place_of(node: fx.Node) -> str:
    """The node's name, with module and line of the model's code that it comes from, where they are known."""
    place = ", ".join(filter(None, (_module_of(node), _line_of(node))))
    return f"{node.name} ({place})" if place else node.name


def _module_of(node: fx.Node) -> str:
    """Dynamo's name of the innermost module around an operation."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return re.sub(r"^[A-Z]+\['[^']*'\]\.?", "", stack[-1][0]) if stack else ""


def _line_of(node: fx.Node) -> str:
    """File and line of the model's code that an operation comes from."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    return f"{PurePath(lines[-1][0]).name}:{lines[-1][1]}" if lines else ""
