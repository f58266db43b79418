"""Find the matches of a pattern in a graph, and how far the best attempt got where there is none.

The matcher begins at an output of the pattern and goes backwards, operation for operation, in their canonical form. It goes forward to the
pattern's other outputs. It passes over casts and views of the graph that change nothing. A value that an operation has written into is that
operation's from then on, as if it had returned a new one. The work is linear in the graph: each operation
that may be the pattern's last one is tried once, and the number of steps of an attempt is bounded.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from .example_values import example
from .layer_call import LayerCall
from .match import Match, largest, with_what_is_its_own
from .near_miss import NearMiss, place_of
from .operations import Operation, canonical_name, operation_of
from .patterns import ANY, Pattern, one_of

_STEPS = 2_000
"""How many comparisons one attempt may take, for each operation of the pattern. Only alternatives within alternatives need many."""

_MAY_CHANGE_NOTHING = frozenset(("to", "contiguous", "reshape", "expand", "getitem", "dropout", "squeeze"))


_Goals = Any
"""Pairs of a value of the pattern and a value of the graph that have to match, as a linked list: ``(pair, goals)`` or None."""

_Note = tuple[dict[Any, Any], Any, Any]
"""An entry of one of the dictionaries of an attempt: the dictionary, key and value."""

_ABSENT: Any = object()


@dataclass(frozen=True, slots=True)
class _Way:
    """One way in which a pair may match.

    Args:
        pairs: The pairs that have to match then.
        notes: What is known then: an entry of one of the attempt's dictionaries each.
    """

    pairs: Sequence[tuple[Any, Any]] = ()
    notes: Sequence[_Note] = ()


@dataclass(slots=True, eq=False)
class _Attempt:
    """What is matched so far; it can be taken back to any earlier state."""

    pattern: Pattern
    values: dict[fx.Node, Any] = field(default_factory=dict)
    taken: dict[fx.Node, fx.Node | None] = field(default_factory=dict)
    layers: dict[str, LayerCall] = field(default_factory=dict)
    trail: list[_Note] = field(default_factory=list)
    steps: int = 0

    def note(self, way: _Way) -> None:
        for store, key, value in way.notes:
            self.trail.append((store, key, store.get(key, _ABSENT)))
            store[key] = value

    def back_to(self, length: int) -> None:
        while len(self.trail) > length:
            store, key, before = self.trail.pop()
            if before is _ABSENT:
                del store[key]
            else:
                store[key] = before


class Matcher:
    """Looks for patterns in one graph. It is built once and stays true until the graph is edited.

    Args:
        graph: A captured graph.
        calls: Its layer calls, which are the atoms of patterns.
    """

    def __init__(self, graph: fx.Graph, calls: Iterable[LayerCall]) -> None:
        self._positions: dict[fx.Node, int] = {}
        self._by_name: defaultdict[str, list[fx.Node]] = defaultdict(list)
        self._operations: dict[fx.Node, Operation] = {}
        self._names: dict[fx.Node, str] = {}
        self._sources: dict[fx.Node, fx.Node | None] = {}
        self._calls: defaultdict[fx.Node, list[tuple[LayerCall, int]]] = defaultdict(list)
        self._reads: dict[fx.Node, dict[fx.Node, fx.Node]] = {}
        self._written: dict[fx.Node, fx.Node] = {}
        writers: dict[fx.Node, fx.Node] = {}
        for position, node in enumerate(graph.nodes):
            self._positions[node] = position
            if writers and (read := {value: writers[value] for value in node.all_input_nodes if value in writers}):
                self._reads[node] = read
            self._names[node] = name = canonical_name(node)
            if name:
                self._by_name[name].append(node)
                if (value := _written_in_place(node)) is not None:
                    writers[value] = node
                    self._written[node] = value
        for call in calls:
            for number, output in enumerate(call.outputs):
                self._calls[output].append((call, number))
                self._by_name[f"layer {call.site.layer_name}"].append(output)
        self._furthest: NearMiss | None = None

    def find(self, patterns: Iterable[Pattern]) -> tuple[tuple[Match, ...], NearMiss | None]:
        """Return the matches of any of the patterns, in the order of the graph, and the attempt that got furthest if there is no match.

        Of several patterns that match at one place, the first counts. Of two matches with equal arguments that lie within each other, as an
        optional last cast makes them, the larger one counts.
        """
        self._furthest = None
        found: dict[fx.Node, Match] = {}
        for pattern in patterns:
            for node in self._candidates(pattern.names(pattern.anchor)):
                if node not in found and (match := self._match(pattern, node)) is not None:
                    found[node] = match
        matches = largest([found[node] for node in sorted(found, key=self._positions.__getitem__)])
        return matches, None if matches else self._furthest

    def _candidates(self, names: Iterable[str]) -> list[fx.Node]:
        nodes = dict.fromkeys(node for name in dict.fromkeys(names) for node in self._by_name.get(name, ()))
        return sorted(nodes, key=self._positions.__getitem__)

    def _match(self, pattern: Pattern, node: fx.Node) -> Match | None:
        attempt = _Attempt(pattern)
        if not self._solve(((pattern.anchor, node), None), attempt):
            return None
        outputs = tuple(attempt.values[output] for output in pattern.outputs)
        given = {name: attempt.values[placeholder] for name, placeholder in pattern.parameters.items() if placeholder in attempt.values}
        operations = frozenset(with_what_is_its_own(attempt.taken, outputs))
        return Match(pattern, given, operations, dict(sorted(attempt.layers.items())), outputs)

    # --- solving --------------------------------------------------------------------------------------------------------------------------

    def _solve(self, goals: _Goals, attempt: _Attempt) -> bool:
        """Match all pairs, and then what the pattern's other outputs need. Leaves the attempt as it was if that cannot be done."""
        begin = len(attempt.trail)
        while goals is not None:
            (wanted, value), goals = goals
            ways = self._ways(wanted, value, attempt)
            attempt.steps += 1
            if not ways or attempt.steps > _STEPS * (attempt.pattern.size + 1):
                attempt.back_to(begin)
                return False
            if len(ways) > 1:
                if any(self._solve_so(way, goals, attempt) for way in ways):
                    return True
                attempt.back_to(begin)
                return False
            attempt.note(ways[0])
            goals = _pushed(ways[0], goals)
        if self._reach_other_outputs(attempt):
            return True
        attempt.back_to(begin)
        return False

    def _solve_so(self, way: _Way, goals: _Goals, attempt: _Attempt) -> bool:
        begin = len(attempt.trail)
        attempt.note(way)
        if self._solve(_pushed(way, goals), attempt):
            return True
        attempt.back_to(begin)
        return False

    def _reach_other_outputs(self, attempt: _Attempt) -> bool:
        pattern = attempt.pattern
        missing = next((output for output in pattern.outputs if output not in attempt.values), None)
        if missing is None:
            return True
        names = frozenset(pattern.names(missing))
        known = [node for node in pattern.ancestors(missing) if isinstance(attempt.values.get(node), fx.Node)]
        starts = sorted((attempt.values[node] for node in known), key=lambda node: (len(node.users), -self._positions[node]))
        for node in self._reachable(starts[0], names, len(pattern.ancestors(missing))) if starts else ():
            if node not in attempt.taken and self._solve(((missing, node), None), attempt):
                return True
        return False

    def _reachable(self, start: fx.Node, names: frozenset[str], distance: int) -> Iterator[fx.Node]:
        """The nodes of these names that are computed from a node within a number of operations, in the order of the graph."""
        seen, border = {start}, [start]
        for _ in range(distance):
            border = [user for node in border for user in node.users if user not in seen and user.op != "output"]
            seen.update(border)
        named = {node for name in names for node in self._by_name.get(name, ())} if len(seen) > 1 else set()
        yield from sorted(seen & named - {start}, key=self._positions.__getitem__)

    def _ways(self, wanted: Any, value: Any, attempt: _Attempt) -> list[_Way]:
        """Each way in which a pair may match. No way: it does not match."""
        if not isinstance(wanted, fx.Node):
            pairs = _constant_pairs(wanted, value)
            return [] if pairs is None else [_Way(pairs)]
        if wanted.op == "placeholder":
            value = self._written.get(value, value)  # what the graph's operations name
        if wanted in attempt.values:
            same = self._same(attempt.values[wanted], value, attempt)
            return [same] if same is not None else self._ended(wanted, value, attempt)
        known = (attempt.values, wanted, value)
        if wanted.op == "placeholder":
            return [_Way(notes=[known])]
        if wanted.target is one_of:
            return [_Way([(spelling, value)], [known]) for spelling in wanted.args]
        ways: list[_Way] = []
        if isinstance(value, fx.Node):
            is_layer = attempt.pattern.layer_of(wanted) is not None
            ways += self._of_layer(wanted, value, attempt) if is_layer else self._of_operation(wanted, value, attempt)
            if (source := self._unchanged(value)) is not None:
                ways.append(_Way([(wanted, source)], [(attempt.taken, value, None)]))
        return ways or self._ended(wanted, value, attempt)

    def _of_operation(self, wanted: fx.Node, value: fx.Node, attempt: _Attempt) -> list[_Way]:
        if self._name(wanted) != self._name(value) or attempt.taken.get(value) is not None:
            return []
        pattern, graph = self._operation(wanted), self._operation(value)
        if pattern.arguments.keys() != graph.arguments.keys():
            return []
        pairs = [
            (self._dimension(name, each, value), self._dimension(name, graph.arguments[name], value))
            for name, each in pattern.arguments.items()
        ]
        if any(not isinstance(each, fx.Node) and _constant_pairs(each, given) is None for each, given in pairs):
            return []
        notes = [(attempt.values, wanted, value), (attempt.taken, value, wanted)]
        if not pattern.commutes:
            return [_Way(pairs, notes)]
        (first, one), (second, other), *rest = pairs
        ways = [_Way([(first, one), (second, other), *rest], notes), _Way([(first, other), (second, one), *rest], notes)]
        # `1.0 + weight.float()` may be captured as `weight.float().add(1.0)`: the number is what the pattern has no operation for.
        return sorted(ways, key=lambda way: sum(map(_is_number_for_an_operation, way.pairs)))

    def _of_layer(self, wanted: fx.Node, value: fx.Node, attempt: _Attempt) -> list[_Way]:
        found = attempt.pattern.layer_of(wanted)
        assert found is not None
        name, atom, number = found
        target = str(atom.target)
        known = attempt.layers.get(target)
        if known is not None:
            return [_Way(notes=[(attempt.values, wanted, value)])] if known.outputs[number : number + 1] == (value,) else []
        ways: list[_Way] = []
        for call, place in self._calls.get(value, ()):
            given, asked = _named(call.args, call.kwargs), _named(atom.args, atom.kwargs)
            if call.site.layer_name == name and place == number and asked.keys() <= given.keys():
                notes: list[_Note] = [(attempt.values, wanted, value), (attempt.layers, target, call)]
                ways.append(_Way([(each, given[key]) for key, each in asked.items()], notes))
        return ways

    def _same(self, known: Any, value: Any, attempt: _Attempt) -> _Way | None:
        """How a value that the pattern uses twice is the same in both places, but for casts and views that change nothing."""
        if not isinstance(known, fx.Node) or not isinstance(value, fx.Node):
            return _Way() if type(known) is type(value) and bool(known == value) else None
        if known is value:
            return _Way()
        (*some, origin), (*others, other_origin) = self._chain(known), self._chain(value)
        if origin is not other_origin:
            return None
        return _Way(notes=[(attempt.taken, node, None) for node in dict.fromkeys((*some, *others)) if node not in attempt.taken])

    def _chain(self, node: fx.Node) -> Iterator[fx.Node]:
        """The node, and what it is a view or cast of that changes nothing."""
        source: fx.Node | None = node
        while source is not None:
            yield source
            source = self._unchanged(source)

    def _name(self, node: fx.Node) -> str:
        """The canonical name of a node of the graph or of a pattern."""
        if node not in self._names:
            self._names[node] = canonical_name(node)
        return self._names[node]

    def _unchanged(self, node: fx.Node) -> fx.Node | None:
        """The input that an operation hands on as it is; None if it does something."""
        if node not in self._sources:
            self._sources[node] = self._unchanged_source(node)
        return self._sources[node]

    def _unchanged_source(self, node: fx.Node) -> fx.Node | None:
        name = self._name(node)
        if name not in _MAY_CHANGE_NOTHING or not node.args or not isinstance(node.args[0], fx.Node):
            return None
        source = node.args[0]
        before, after = example(source), example(node)
        if not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor) or _metadata(before) != _metadata(after):
            return None
        if (
            name == "dropout"
            and (arguments := self._operation(node).arguments)
            and arguments.get("p") != 0
            and arguments.get("training", True)
        ):
            return None
        return source

    def _operation(self, node: fx.Node) -> Operation:
        if node not in self._operations:
            operation, read = operation_of(node), self._reads.get(node)
            if read is not None:
                arguments = fx.node.map_arg(dict(operation.arguments), lambda value: read.get(value, value))
                operation = Operation(operation.name, arguments)
            self._operations[node] = operation
        return self._operations[node]

    def _dimension(self, name: str, value: Any, node: fx.Node) -> Any:
        """A dimension counted from the end, where the number of dimensions is known."""
        if name not in ("dim", "dim0", "dim1") or type(value) is not int or value < 0:
            return value
        source = node.args[0] if node.args else node.kwargs.get("input")
        tensor = example(source) if isinstance(source, fx.Node) else None
        inserted = 1 if self._name(node) == "unsqueeze" else 0
        return value - tensor.dim() - inserted if isinstance(tensor, torch.Tensor) else value

    def _ended(self, wanted: fx.Node, value: Any, attempt: _Attempt) -> list[_Way]:
        """Note where the attempt ended, if none got further."""
        matched = sum(node is not None for node in attempt.taken.values()) + len(attempt.layers)
        if matched and (self._furthest is None or matched > self._furthest.matched):
            at = value if isinstance(value, fx.Node) else next(reversed(attempt.taken), None)
            if at is not None:
                has, found = self._told(wanted, value, attempt.pattern)
                reached = f"{matched} of {attempt.pattern.size} operations of {attempt.pattern.name} matched"
                self._furthest = NearMiss(
                    attempt.pattern, matched, f"{reached}; at {place_of(at)} the pattern has {has}, the graph {found}"
                )
        return []

    def _told(self, wanted: fx.Node, value: Any, pattern: Pattern) -> tuple[str, str]:
        """What the pattern has, and what the graph has there."""
        has = str(wanted.name) if wanted.op == "placeholder" else " or ".join(dict.fromkeys(pattern.names(wanted)))
        if not isinstance(value, fx.Node):
            return has, repr(value)
        found = canonical_name(value)
        if not found:
            return has, f"the {'input' if value.op == 'placeholder' else 'constant'} {value.name}"
        if has == found:
            ours, theirs = self._operation(wanted).arguments, self._operation(value).arguments
            name = next((name for name in theirs if name not in ours or _constant_pairs(ours[name], theirs[name]) is None), None)
            if name is not None:
                return f"{has} with {name}={ours.get(name)}", f"{found} with {name}={theirs[name]}"
        return has, found


def _written_in_place(node: fx.Node) -> fx.Node | None:
    """The value that an operation writes into and does nothing else; None for one that does not."""
    target = node.target
    writes = target is operator.setitem or (node.op == "call_method" and str(target).endswith("_") and not str(target).endswith("__"))
    return node.args[0] if writes and node.args and isinstance(node.args[0], fx.Node) else None


def _is_number_for_an_operation(pair: tuple[Any, Any]) -> bool:
    wanted, value = pair
    return isinstance(wanted, fx.Node) and wanted.op != "placeholder" and not isinstance(value, fx.Node)


def _named(args: Iterable[Any], kwargs: Mapping[str, Any]) -> dict[Any, Any]:
    """Arguments by position or name."""
    return dict(enumerate(args)) | dict(kwargs)


def _pushed(way: _Way, goals: _Goals) -> _Goals:
    for pair in reversed(way.pairs):
        goals = (pair, goals)
    return goals


def _constant_pairs(wanted: Any, value: Any) -> list[tuple[Any, Any]] | None:
    """The pairs that are left of two values of which the pattern's is no node; None if they differ."""
    if wanted is ANY:
        return []
    if isinstance(wanted, fx.Node):
        return [(wanted, value)]
    if isinstance(wanted, tuple | list):
        if not isinstance(value, tuple | list) or len(wanted) != len(value):
            return None
        parts = [_constant_pairs(each, given) for each, given in zip(wanted, value, strict=True)]
        return None if any(part is None for part in parts) else [pair for part in parts if part is not None for pair in part]
    if isinstance(wanted, slice):
        if not isinstance(value, slice):
            return None
        return _constant_pairs((wanted.start, wanted.stop, wanted.step), (value.start, value.stop, value.step))
    if isinstance(value, fx.Node):
        return None
    comparable = type(wanted) is type(value) or (_is_number(wanted) and _is_number(value))
    return [] if comparable and wanted == value else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _metadata(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.device, tuple(map(str, tensor.shape)), tuple(map(str, tensor.stride()))
