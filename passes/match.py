"""A place in a graph where a pattern is, and which operations belong to it besides those that the pattern names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from .layer_call import LayerCall
from .operations import canonical_name
from .patterns import Pattern


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """A place in a graph where a pattern is.

    Args:
        pattern: The pattern.
        arguments: What its parameters are there: nodes and constants.
        operations: The operations of the graph that it matched, without those of layer calls.
        layers: The layer calls that are its atoms, by the atoms' targets.
        outputs: The nodes of its outputs.
    """

    pattern: Pattern
    arguments: Mapping[str, Any]
    operations: frozenset[fx.Node]
    layers: Mapping[str, LayerCall]
    outputs: tuple[fx.Node, ...]


def largest(matches: Sequence[Match]) -> tuple[Match, ...]:
    """The matches but those within another one that has the same arguments."""
    alike: defaultdict[Any, list[Match]] = defaultdict(list)
    of_match = [tuple((name, repr(value)) for name, value in match.arguments.items()) for match in matches]
    for match, arguments in zip(matches, of_match, strict=True):
        alike[arguments].append(match)
    return tuple(
        match
        for match, arguments in zip(matches, of_match, strict=True)
        if not any(match.operations < other.operations for other in alike[arguments])
    )


def with_what_is_its_own(operations: Mapping[fx.Node, Any], outputs: tuple[fx.Node, ...]) -> Iterator[fx.Node]:
    """The operations, what is computed from one of them and used nowhere, and what nobody else reads and is computed from nothing.

    Dynamo takes both values of a `torch.max` apart, and leaves the one that nobody uses in graphs of higher-order operators (torch 2.13).
    """
    for node in operations:
        yield node
        if len(node.users) > 1 and node not in outputs:
            unused = (user for user in node.users if not user.users and user.all_input_nodes == [node])
            yield from (user for user in unused if canonical_name(user) == "getitem")
        for value in node.all_input_nodes:
            if value not in operations and canonical_name(value) == "arange" and all(user in operations for user in value.users):
                yield value
