"""What a page shows, made ready for the templates: sentences folded, equal descriptions told apart from new ones. No facts are computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from ...kernels.describe import Operation
from ...passes.gate import CALL_GATES, CANDIDATE_GATES, Candidate, Gate
from ...passes.miss import Miss
from ..fold import Fold, differing_decisions, fold_calls, folded_message, graphs_that_decided
from ..hints import hint_for
from ..model import CallReport, GraphDecision, ReportData
from ..picture import anchor_of, link_to
from ..tree import Branch, Leaf, module_tree

MOST_LISTED = 64
"""Calls of one fold that are listed one by one. Its label names more of them just as well."""

Reason = tuple[str, str, str]
"""Code and sentence of a miss, and what would make the call match, if that is known and wanted."""


@dataclass(frozen=True, slots=True)
class Step:
    """A gate: its name, its outcome in a word, and what is to be said about it."""

    name: str
    outcome: str
    code: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """The gates of a call, or of one candidate for it, and the names of those that were not asked."""

    title: str
    outcome: str
    steps: tuple[Step, ...]
    not_asked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Description:
    """Everything that a decision says. Equal ones have one number, and only the first of them is written out."""

    number: int
    first: bool
    written_in: str
    at: str
    status: str
    kernel: str
    variant: str
    override: str
    lowering: str
    remarks: tuple[str, ...]
    evidence: str
    record: str
    training: bool | None
    reasons: tuple[Reason, ...]
    chains: tuple[Chain, ...]
    inputs: tuple[tuple[str, str], ...]
    before: tuple[Operation, ...]
    after: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """Some calls of a fold of which one description holds. The heading says which, where there are several."""

    heading: str
    description: Description


@dataclass(frozen=True, slots=True)
class Entry:
    """A fold on the page. Numbers are the places of its calls in the report where they are too many to be listed; scripts list them."""

    label: str
    anchor: str
    link: str
    full_label: str
    calls: tuple[CallReport, ...]
    numbers: str
    status: str
    layer_name: str
    layer: str
    location: str
    kernel: str
    why: tuple[Reason, ...]
    reasons: tuple[Reason, ...]
    parts: tuple[Part, ...]
    covered: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Module:
    """A branch of the tree on the page."""

    label: str
    counts: Counter[str]
    parts: tuple[Module | Entry, ...]


def page_tree(report: ReportData) -> tuple[Module | Entry, ...]:
    """Return the modules and folds of a report, ready to be written."""
    builder = _Builder({call.key: place for place, call in enumerate(report.calls)})
    return tuple(builder.part(part) for part in module_tree(fold_calls(report.calls)))


def entries_of(parts: Sequence[Module | Entry]) -> Iterator[Entry]:
    """All folds in the order of the page, those inside others too."""
    for part in parts:
        if isinstance(part, Module):
            yield from entries_of(part.parts)
        else:
            yield part
            yield from entries_of(part.covered)


@dataclass(slots=True)
class _Builder:
    """Numbers the descriptions while it walks over the tree in the order of the page."""

    places: dict[str, int]
    seen: dict[Hashable, Description] = field(default_factory=dict)

    def part(self, part: Branch | Leaf) -> Module | Entry:
        if isinstance(part, Leaf):
            return self.entry(part.fold, part.label)
        return Module(part.label, Counter(part.counts), tuple(self.part(inner) for inner in part.parts))

    def entry(self, fold: Fold, label: str) -> Entry:
        call = fold.calls[0]
        newest = call.decisions[-1]
        reasons = _reasons(call, [c.decisions[-1] for c in fold.calls])
        parts = []
        groups = _alike(fold)
        for calls in groups:
            heading = ", ".join(inner.label for inner in fold_calls(calls)) if len(groups) > 1 else ""
            parts.append(Part(heading, self.description(call, fold.label, [c.decisions[-1] for c in calls])))
        for decision in differing_decisions(call):
            heading = f"In graph {graphs_that_decided(fold, decision)}, captured earlier"
            parts.append(Part(heading, self.description(call, fold.label, [decision])))
        return Entry(
            label,
            anchor_of(call),
            link_to(call),
            fold.label,
            fold.calls,
            " ".join(str(self.places[c.key]) for c in fold.calls) if len(fold.calls) > MOST_LISTED else "",
            newest.status,
            call.layer_name,
            call.layer,
            call.short_location,
            _kernel(newest),
            tuple((f"{gate.name} unknown", gate.note, "") for gate in newest.unknown_gates) if newest.status == "unknown" else reasons,
            reasons,
            tuple(parts),
            tuple(self.entry(inner, _inside(inner.label, fold.label)) for inner in fold.covered),
        )

    def description(self, call: CallReport, label: str, decisions: Sequence[GraphDecision]) -> Description:
        newest = decisions[0]
        kernel, lowering, evidence = newest.kernel, newest.lowering, newest.evidence
        said = (
            newest.status,
            _kernel(newest),
            kernel.variant or "" if kernel is not None else "",
            kernel.override or "" if kernel is not None else "",
            f"{lowering.name}: {lowering.reason}" if lowering is not None else "",
            lowering.remarks if lowering is not None else (),
            str(evidence) if evidence is not None else "",
            evidence.record or "" if evidence is not None else "",
            newest.training,
            _reasons(call, decisions),
            tuple(_chains(decisions)),
            tuple(_input(text) for text in newest.inputs),
            newest.before,
            newest.after,
        )
        known = self.seen.get(said)
        if known is not None:
            return Description(known.number, False, known.written_in, known.at, *said)
        return self.seen.setdefault(said, Description(len(self.seen), True, label, link_to(call), *said))


def _inside(label: str, cover: str) -> str:
    """The label of a call inside another one, below that one's path where it is the same."""
    return label[len(cover) + 1 :] if label.startswith(f"{cover}.") else label


def _alike(fold: Fold) -> list[list[CallReport]]:
    """The calls in groups of which all is equal but names of nodes. A fold says what became of them; shapes and operations may differ."""
    groups: dict[Hashable, list[CallReport]] = {}
    for call in fold.calls:
        newest = call.decisions[-1]
        chains = (_asked(newest.gates), *((candidate.name, _asked(candidate.gates)) for candidate in newest.candidates))
        key = (newest.inputs, newest.before, newest.after, newest.training, newest.evidence, newest.lowering, chains)
        groups.setdefault(key, []).append(call)
    return list(groups.values())


def _asked(gates: Sequence[Gate]) -> Hashable:
    return tuple((gate.name, gate.outcome, gate.note, gate.miss.code if gate.miss is not None else "") for gate in gates)


def _reasons(call: CallReport, decisions: Sequence[GraphDecision]) -> tuple[Reason, ...]:
    """The misses of decisions that are alike, each with the names of all their nodes."""
    rows = zip(*(decision.misses for decision in decisions), strict=False)
    missed = decisions[0].status == "missed"
    return tuple((row[0].code, folded_message(row), hint_for(row[0], call) if missed else "") for row in rows)


def _kernel(decision: GraphDecision) -> str:
    """Who takes the call, or would if nothing unknown speaks against it."""
    if decision.kernel is None and decision.status == "unknown" and decision.candidates:
        return _title(decision.candidates[-1])
    return str(decision.kernel or "")


def _chains(decisions: Sequence[GraphDecision]) -> Iterator[Chain]:
    newest = decisions[0]
    if newest.gates:
        yield _chain("The call itself", CALL_GATES, [decision.gates for decision in decisions])
    for number, candidate in enumerate(newest.candidates):
        yield _chain(_title(candidate), CANDIDATE_GATES, [decision.candidates[number].gates for decision in decisions])


def _title(candidate: Candidate) -> str:
    return str(candidate.kernel) if candidate.kernel is not None else candidate.name


def _chain(title: str, names: Sequence[str], chains: Sequence[Sequence[Gate]]) -> Chain:
    steps = []
    for row in zip(*chains, strict=True):
        misses: list[Miss] = [gate.miss for gate in row if gate.miss is not None]
        text = folded_message(misses) if misses else row[0].note
        steps.append(Step(row[0].name, row[0].outcome, misses[0].code if misses else "", text))
    outcomes = {step.outcome for step in steps}
    outcome = next((word for word in ("failed", "unknown") if word in outcomes), "passed")
    asked = {step.name for step in steps}
    return Chain(title, outcome, tuple(steps), tuple(name for name in names if name not in asked))


def _input(text: str) -> tuple[str, str]:
    name, _, value = text.partition(": ")
    return name, value
