"""Folding: layer calls that differ only in numbers of their module path become one entry, ``layers.{0..31}.input_layernorm``.

A fold has one label and one outcome in words: ``missed (dtype: x is f32; acme/norms takes bf16)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from ..passes.miss import Miss
from .model import CallReport, GraphDecision

_NUMBER = re.compile(r"0|[1-9][0-9]*")
_NUMBERED_NAME = re.compile(r"(.+)_(0|[1-9][0-9]*)")

NAMES = frozenset({"node", "target", "user", "key"})
"""Fields of a miss that name nodes or calls. They differ from layer to layer (mul_3, mul_7) where the reason is the same."""

Message = Callable[[Sequence[Miss]], str]
"""Returns the one message of misses that differ in the names of nodes and calls only."""


@dataclass(frozen=True, slots=True)
class Fold:
    """Calls of which one can say everything at once.

    Args:
        label: The module paths of all its calls, e.g. ``layers.{0..2,4}.norm``; with ``#n`` where a path is called more than once.
        calls: The calls, in the report's order.
        covered: The calls that happen inside these, folded among themselves.
    """

    label: str
    calls: tuple[CallReport, ...]
    covered: tuple[Fold, ...] = ()

    @property
    def name(self) -> str:
        """The label and, if it has more than one call, their number."""
        return f"{self.label or '(the model)'}{f' x{len(self.calls)}' if len(self.calls) > 1 else ''}"


def fold_calls(calls: Iterable[CallReport], also: Callable[[CallReport], Hashable] | None = None) -> tuple[Fold, ...]:
    """Fold calls whose paths differ in numbers only and which have the same layer name, status, kernel and misses in all graphs.

    Every call is in exactly one fold; the folds are in the order of their first calls.

    Args:
        calls: Calls with distinct paths and indices, as a `Report` has them.
        also: Returns what else calls of one fold must have in common.

    Example:
        >>> [fold.label for fold in fold_calls(report.calls)]
        ['layers.{0..31}.input_layernorm', 'norm']
    """
    calls = tuple(calls)
    covers = {call.key for call in calls if call.status != "covered"}
    inside: dict[str, list[CallReport]] = {}
    outer = []
    for call in calls:
        cover = _cover(call)
        if cover in covers:
            inside.setdefault(cover, []).append(call)
        else:
            outer.append(call)
    called_again = repeated_paths(calls)

    def alike(call: CallReport) -> Hashable:
        return (_history(call), also(call) if also is not None else None)

    return tuple(
        replace(fold, covered=tuple(_fold([call for cover in fold.calls for call in inside.get(cover.key, ())], called_again, alike)))
        for fold in _fold(outer, called_again, alike)
    )


def fold_alike(calls: Iterable[CallReport], alike: Callable[[CallReport], Hashable], repeated: frozenset[str]) -> tuple[Fold, ...]:
    """Fold calls whose paths differ in numbers only, which have the same layer name, and for which `alike` returns equal values.

    Args:
        calls: Some calls of a report.
        alike: Returns what calls of one fold have in common.
        repeated: The paths that are called more than once in the report; see `repeated_paths`.
    """
    return tuple(_fold(tuple(calls), repeated, alike))


def repeated_paths(calls: Iterable[CallReport]) -> frozenset[str]:
    """Return the paths of modules that are called more than once."""
    return frozenset(call.path for call in calls if call.index > 0)


def differing_decisions(call: CallReport) -> tuple[GraphDecision, ...]:
    """Return the decisions of earlier graphs that differ from the newest one and from each other."""
    different = {_outcome(decision): decision for decision in reversed(call.decisions)}
    different.pop(_outcome(call.decisions[-1]))
    return tuple(reversed(different.values()))


def graphs_that_decided(fold: Fold, decision: GraphDecision) -> str:
    """Return the numbers of the graphs that decided like this about calls of the fold, e.g. ``0`` or ``{0..3}``."""
    outcome = _outcome(decision)
    return number_set(d.graph for call in fold.calls for d in call.decisions if _outcome(d) == outcome)


def folded_message(misses: Sequence[Miss]) -> str:
    """Return the one message of misses that differ in the names of nodes only, with all those names.

    Example:
        >>> folded_message([Miss("random", "{node} draws random numbers", {"node": f"dropout_{i}"}) for i in (1, 2, 3)])
        'dropout_{1..3} draws random numbers'
    """
    data = dict(misses[0].data)
    for name in NAMES & data.keys():
        data[name] = _folded_names([str(miss.data[name]) for miss in misses])
    return misses[0].template.format(**data)


def first_message(misses: Sequence[Miss]) -> str:
    """Return the message of the first miss."""
    return misses[0].message


def nameless(misses: Sequence[Miss]) -> str:
    """Return the first miss's message without names of nodes and calls, which are others in each capture."""
    return misses[0].template.format(**misses[0].data | dict.fromkeys(NAMES & misses[0].data.keys(), "..."))


def outcome_of(decisions: Sequence[GraphDecision], message: Message = first_message) -> str:
    """Return status and kernel, or status and reason.

    Args:
        decisions: Decisions that differ in the names of nodes and calls only.
        message: Makes one message of their misses.
    """
    decision = decisions[0]
    if decision.status == "unknown" and decision.candidates:
        candidate = decision.candidates[-1]
        gates = ", ".join(gate.name for gate in candidate.gates if gate.outcome == "unknown")
        return f"unknown ({candidate.kernel or candidate.name}; not asked: {gates})"
    if decision.kernel is not None:
        variant = f" ({decision.kernel.variant})" if decision.kernel.variant else ""
        return f"{decision.status} by {decision.kernel}{variant}"
    if not decision.misses or decision.status == "covered":
        return decision.status
    reason = reason_of([d.misses[0] for d in decisions], message)
    return f"{decision.status} ({reason.removeprefix(f'{decision.status}: ')})"


def reason_of(misses: Sequence[Miss], message: Message = first_message) -> str:
    """Return code and message of misses that differ in the names of nodes and calls only, in one line."""
    return f"{misses[0].code}: {' '.join(message(misses).split())}"


def number_set(numbers: Iterable[int]) -> str:
    """Return ``{0..3,5}`` for 0, 1, 2, 3, 5, and ``5`` for a single number."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    text = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
    return text if text.isdecimal() else f"{{{text}}}"


def _fold(calls: Sequence[CallReport], called_again: frozenset[str], alike: Callable[[CallReport], Hashable]) -> list[Fold]:
    groups: dict[Hashable, dict[tuple[int, ...], CallReport]] = {}
    position = {call.key: number for number, call in enumerate(calls)}
    for call in calls:
        template, numbers = _split(call, call.path in called_again)
        groups.setdefault((template, call.layer_name, alike(call)), {})[numbers] = call
    folds = []
    for (template, *_), members in groups.items():  # type: ignore[misc] # the key is a tuple; Hashable hides it
        for product in _products(list(members)):
            chosen = tuple(
                call for numbers, call in members.items() if all(n in choice for n, choice in zip(numbers, product, strict=True))
            )
            folds.append(Fold(template.format(*map(number_set, product)), chosen))
    return sorted(folds, key=lambda fold: position[fold.calls[0].key])


def _split(call: CallReport, with_index: bool) -> tuple[str, tuple[int, ...]]:
    """The path with a ``{}`` for each of its numbers, and the numbers. The index counts as one where the path is called more than once."""
    segments = [segment.replace("{", "{{").replace("}", "}}") for segment in call.path.split(".")]
    numbers = [int(segment) for segment in segments if _NUMBER.fullmatch(segment)]
    template = ".".join("{}" if _NUMBER.fullmatch(segment) else segment for segment in segments)
    if with_index:
        return f"{template}#{{}}", (*numbers, call.index)
    return template, tuple(numbers)


def _products(vectors: list[tuple[int, ...]]) -> list[tuple[frozenset[int], ...]]:
    """Split distinct vectors into disjoint products of number sets that together contain exactly these vectors."""
    if not vectors[0]:
        return [()]
    rests: dict[int, list[tuple[int, ...]]] = {}
    for first, *rest in vectors:
        rests.setdefault(first, []).append(tuple(rest))
    firsts: dict[frozenset[tuple[int, ...]], list[int]] = {}
    for first, found in rests.items():
        firsts.setdefault(frozenset(found), []).append(first)
    return [(frozenset(chosen), *product) for chosen in firsts.values() for product in _products(rests[chosen[0]])]


def _history(call: CallReport) -> Hashable:
    return (_outcome(call.decisions[-1]), *map(_outcome, differing_decisions(call)))


def _outcome(decision: GraphDecision) -> Hashable:
    """What a decision says, without the graph's number and without names of nodes."""
    misses = tuple(
        (miss.code, miss.template, *sorted((k, repr(v)) for k, v in miss.data.items() if k not in NAMES)) for miss in decision.misses
    )
    evidence = str(decision.evidence) if decision.evidence is not None else ""
    remarks = decision.lowering.remarks if decision.lowering is not None else ()
    return (decision.status, decision.kernel, evidence, remarks, decision.unknown_gates, misses)


def _cover(call: CallReport) -> str:
    """The key of the rewritten call inside which this one happens, or an empty string."""
    return str(call.miss.data.get("key", "")) if call.status == "covered" and call.miss is not None else ""


def _folded_names(names: Sequence[str]) -> str:
    """``mul, mul_{1..3}`` for the names that torch.fx gives to equal nodes."""
    numbers: dict[str, list[int]] = {}
    parts: dict[str, None] = {}
    for name in names:
        match = _NUMBERED_NAME.fullmatch(name)
        parts[match[1] + "_{}" if match else name] = None
        if match:
            numbers.setdefault(match[1] + "_{}", []).append(int(match[2]))
    return ", ".join(part.replace("{}", number_set(numbers[part])) if part in numbers else part for part in parts)
