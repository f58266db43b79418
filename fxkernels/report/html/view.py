"""The values that the templates of a page show: the tree of modules, folded sentences, and which descriptions are new.

No facts are computed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from ...decide.gates import names_of
from ...kernels.describe import Operation
from ...passes.gate import CandidateResult, GateResult
from ...passes.miss import Miss
from ..fold import Fold, differing_decisions, fold_calls, folded_message, graphs_that_decided
from ..hints import hint_for
from ..model import CallReport, GraphDecision, ReportData
from ..picture import anchor_of, link_to

# One name of a label with the numbers behind it, which belong to a list of that name: `layers.{0..3}`, `layers.3`, `norm#0`.
_NAME = re.compile(r"(?:\{[0-9.,]+\}|[^.])+(?:\.(?:\{[0-9.,]+\}|[0-9]+)(?=[.#]|$))*")

MOST_LISTED = 64
"""Calls of one fold that are listed one by one. Its label names more of them just as well; scripts list them."""

Reason = tuple[str, str, str]
"""Code and sentence of a miss, and what would make the call match, if that is known and wanted."""


@dataclass(frozen=True, slots=True)
class Step:
    """A gate: its name, its outcome in a word, and the reason or the evidence."""

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
class Details:
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
    description: Details


@dataclass(frozen=True, slots=True)
class Entry:
    """A fold on the page. The label is the one below the module around it, the full label has the whole path."""

    label: str
    anchor: str
    link: str
    full_label: str
    calls: tuple[CallReport, ...]
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
    """A module with more than one fold in it, under its path below the module around it, e.g. ``layers.{0..31}``."""

    label: str
    parts: tuple[Module | Entry, ...]

    @property
    def counts(self) -> Counter[str]:
        """How many calls have each status, those inside rewritten ones too."""
        return Counter(call.status for entry in entries_of(self.parts) for call in entry.calls)


def page_tree(report: ReportData) -> tuple[Module | Entry, ...]:
    """Return the modules and folds of a report, ready to be written.

    A module is shown where several folds share its path, all numbers included.
    """
    return _Builder().parts([(_names(fold.label), fold) for fold in fold_calls(report.calls)], 0)


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

    seen: dict[Hashable, Details] = field(default_factory=dict)

    def parts(self, named: Sequence[tuple[list[str], Fold]], depth: int) -> tuple[Module | Entry, ...]:
        """What is in a module whose label has `depth` names. A fold's last name is its own, never a module's."""
        groups: dict[tuple[str, bool], list[tuple[list[str], Fold]]] = {}
        for names, fold in named:
            inside = len(names) - 1 > depth
            groups.setdefault((names[depth] if inside else fold.label, inside), []).append((names, fold))
        parts: list[Module | Entry] = []
        for group in groups.values():
            if len(group) == 1:
                parts.append(self.entry(group[0][1], _below(group[0][1].label, depth)))
                continue
            shared = _shared([names[:-1] for names, _ in group])
            parts.append(Module(".".join(group[0][0][depth:shared]), self.parts(group, shared)))
        return tuple(parts)

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

    def description(self, call: CallReport, label: str, decisions: Sequence[GraphDecision]) -> Details:
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
            return Details(known.number, False, known.written_in, known.at, *said)
        return self.seen.setdefault(said, Details(len(self.seen), True, label, link_to(call), *said))


def _below(label: str, depth: int) -> str:
    rest = ".".join(_names(label)[depth:])
    return f"(the model){rest}" if not rest or rest.startswith("#") else rest


def _names(label: str) -> list[str]:
    return _NAME.findall(label)


def _shared(ways: Sequence[Sequence[str]]) -> int:
    """How many names all of them begin with."""
    return next((n for n, names in enumerate(zip(*ways, strict=False)) if len(set(names)) > 1), min(map(len, ways)))


def _inside(label: str, cover: str) -> str:
    """The label of a call inside another one, below that one's path where it is the same."""
    return label[len(cover) + 1 :] if label.startswith(f"{cover}.") else label


def _alike(fold: Fold) -> list[list[CallReport]]:
    """The calls in groups of which all is equal but names of nodes. Calls of a fold have one outcome; shapes and operations may differ."""
    groups: dict[Hashable, list[CallReport]] = {}
    for call in fold.calls:
        newest = call.decisions[-1]
        chains = (_asked(newest.gates), *((candidate.name, _asked(candidate.gates)) for candidate in newest.candidates))
        key = (newest.inputs, newest.before, newest.after, newest.training, newest.evidence, newest.lowering, chains)
        groups.setdefault(key, []).append(call)
    return list(groups.values())


def _asked(gates: Sequence[GateResult]) -> Hashable:
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
        yield _chain("The call itself", names_of("call", "form"), [decision.gates for decision in decisions])
    for number, candidate in enumerate(newest.candidates):
        yield _chain(_title(candidate), names_of("candidate", "selection"), [decision.candidates[number].gates for decision in decisions])


def _title(candidate: CandidateResult) -> str:
    return str(candidate.kernel) if candidate.kernel is not None else candidate.name


def _chain(title: str, names: Sequence[str], chains: Sequence[Sequence[GateResult]]) -> Chain:
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
