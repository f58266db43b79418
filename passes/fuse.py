"""Make layer calls of the places where compositions match: a fusion is an annotated layer that the model's author did not write."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace

from torch import fx

from .layer_call import CallSite, LayerCall
from .match import Match
from .matching import Matcher
from .near_miss import NearMiss
from .patterns import Pattern


@dataclass(frozen=True, eq=False)
class Composition:
    """A fusion as the passes see it.

    Args:
        layer_name: The layer name of its calls.
        patterns: Its spellings; of several that match at one place the first counts.
        parameters: The parameters of its kernels in order, with their defaults.
        site: From a match to where it stands in the user's model; None where it does not belong to a model that kernels are wanted for.
    """

    layer_name: str
    patterns: tuple[Pattern, ...]
    parameters: dict[str, object]
    site: Callable[[Match], CallSite | None]


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """How often a composition was found in one graph.

    Args:
        layer_name: The layer name of its calls.
        count: How many calls it has there.
        near_miss: The attempt that got furthest, where there is none.
    """

    layer_name: str
    count: int
    near_miss: NearMiss | None = None


def find_fused_calls(
    graph: fx.Graph, calls: tuple[LayerCall, ...], compositions: Iterable[Composition], counts: Counter[Hashable]
) -> tuple[tuple[LayerCall, ...], tuple[Matched, ...]]:
    """Return the layer calls of a graph together with those of compositions, parents before children, and how often each matched.

    A call inside the operations of another one has it as its parent, whichever of them was annotated. A plan rewrites at most one of two
    calls that overlap otherwise.

    Args:
        graph: A graph without markers.
        calls: Its annotated calls.
        compositions: What is looked for, in order: of two with the same operations the earlier one is the outer call.
        counts: Calls per owner and path seen so far. It is updated.
    """
    matcher = Matcher(graph, calls)
    positions = {node: position for position, node in enumerate(graph.nodes)}
    found: list[LayerCall] = []
    matched: list[Matched] = []
    for composition in compositions:
        matches, near_miss = matcher.find(composition.patterns)
        sited = [(match, site) for match in matches if (site := composition.site(match)) is not None]
        found += [_call(match, site, composition, graph, positions, counts) for match, site in sited]
        matched.append(Matched(composition.layer_name, len(sited), near_miss))
    return (_nested((*calls, *found), positions) if found else calls), tuple(matched)


def _call(
    match: Match, site: CallSite, composition: Composition, graph: fx.Graph, positions: dict[fx.Node, int], counts: Counter[Hashable]
) -> LayerCall:
    key = (id(site.owner), site.path)
    index = counts[key]
    counts[key] += 1
    region = match.operations.union(*(call.region for call in match.layers.values()))
    tensors = {f"{atom}.{name}": value for atom, call in match.layers.items() for name, value in call.tensors.items()}
    return LayerCall(
        site,
        index,
        graph,
        args=tuple([match.arguments.get(name, default) for name, default in composition.parameters.items()]),
        tensors=tensors,
        region=tuple(sorted(region, key=positions.__getitem__)),
        outputs=match.outputs,
    )


def _nested(calls: tuple[LayerCall, ...], positions: dict[fx.Node, int]) -> tuple[LayerCall, ...]:
    """Give each call the innermost call around it as its parent, and return them in the order in which they begin.

    Args:
        calls: The annotated calls, parents before children, and then the fused ones. Of two with equal operations the first is outer.
        positions: Of the nodes in the graph.
    """
    holding: defaultdict[fx.Node, list[LayerCall]] = defaultdict(list)
    for call in calls:
        for node in call.region:
            holding[node].append(call)
    inward = {call: (-len(call.region), number) for number, call in enumerate(calls)}
    nested: dict[LayerCall, LayerCall] = {}
    for call in sorted(calls, key=inward.__getitem__):
        holders = holding[call.region[0]] if call.region else []
        around = [other for other in holders if inward[other] < inward[call] and call.inside <= other.inside]
        parent = max(around, key=inward.__getitem__, default=call.parent)
        nested[call] = replace(call, parent=nested[parent] if parent is not None else None)
    begin = {call: (positions[call.region[0]] if call.region else -1, *inward[call]) for call in calls}
    return tuple([nested[call] for call in sorted(calls, key=begin.__getitem__)])
