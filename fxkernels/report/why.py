"""Why one layer call runs the kernel that it runs, or none: the whole chain of gates, the nearest candidate, and what would help."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..decide.gates import names_of
from ..passes.gate import CandidateResult, GateResult
from ..passes.miss import Miss
from ..passes.plan import Status
from .fold import Fold, differing_decisions, fold_calls
from .hints import hint_for
from .model import CallReport, Evidence, GraphDecision, ReportData, shortened
from .terminal import columns, wrapped

_NUMBER = re.compile(r"(?<![^.])[0-9]+(?![^.])")
_LISTED = 8
_CANDIDATE_GATES = names_of("candidate", "selection")
_COLUMN = " " * len("  passed  ")

_OUTCOMES = {
    "rewritten": "runs a kernel",
    "missed": "keeps its original layer",
    "excluded": "keeps its original layer: it is excluded",
    "covered": "has no kernel of its own: the layer around it has one",
    "not_captured": "was not captured",
    "unknown": "would perhaps run a kernel",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one captured graph does with one call, and what would have to be different.

    Args:
        call: The call.
        decision: What the graph does with it.
        nearest: Of the candidates that were turned away, the one that passed the most gates; None if there is none.
        change: What would make the nearest candidate match, or the call itself where no candidate was asked: a phrase that ends
            "it would match ..."; empty if a kernel runs, or if nothing small would help.
    """

    call: CallReport
    decision: GraphDecision
    nearest: CandidateResult | None = None
    change: str = ""


@dataclass(frozen=True, slots=True)
class Why:
    """Why a call, or the calls of one path, run the kernel that they run, or none. ``str()`` of it is the explanation.

    Args:
        name: The name that was given.
        explanations: One for each call and each decision about it that differs from the others, the newest graph's first.
        alike: The calls whose paths differ from this one in numbers only and that got a kernel, where this one did not.
    """

    name: str
    explanations: tuple[Explanation, ...]
    alike: tuple[Fold, ...] = ()

    @property
    def status(self) -> Status:
        """What happened to the call in the newest graph."""
        return self.explanations[0].decision.status

    @property
    def miss(self) -> Miss | None:
        """The first failure, in the newest graph; None if nothing failed."""
        misses = self.explanations[0].decision.misses
        return misses[0] if misses else None

    @property
    def nearest(self) -> CandidateResult | None:
        """Of the candidates that were turned away, the one that passed the most gates."""
        return self.explanations[0].nearest

    @property
    def change(self) -> str:
        """The smallest change after which it would match, as a phrase such as ``with weight in bfloat16``; empty if there is none."""
        return self.explanations[0].change

    def __str__(self) -> str:
        return render_why(self)


def why(report: ReportData, name: str) -> Why:
    """Return why a call runs the kernel that it runs, or none.

    Args:
        report: The report.
        name: A module path, a path with call index (``model.norm#1``), or a folded label as reports show it (``layers.{0..3}.norm``).

    Raises:
        ValueError: If no call has this name; the message has the nearest names, or those below it.
    """
    calls = _named(report, name)
    explanations = [_explained(call, decision) for call in calls for decision in (call.decisions[-1], *reversed(differing_decisions(call)))]
    return Why(name, tuple(explanations), _alike(report, calls))


def _explained(call: CallReport, decision: GraphDecision) -> Explanation:
    if decision.status in ("rewritten", "covered"):
        return Explanation(call, decision, _nearest(decision.candidates))
    nearest = _nearest(decision.candidates)
    miss = nearest.miss if nearest is not None else next(iter(decision.misses), None)
    if decision.status == "unknown" or miss is None:
        return Explanation(call, decision, nearest)
    return Explanation(call, decision, nearest, hint_for(miss, call))


def _nearest(candidates: Sequence[CandidateResult]) -> CandidateResult | None:
    """The failed candidate whose failing gate comes last; of several, the one that the mapping prefers."""
    failed = [candidate for candidate in candidates if candidate.outcome == "failed"]
    return max(failed, key=lambda candidate: _CANDIDATE_GATES.index(candidate.gates[-1].name), default=None)


def _alike(report: ReportData, calls: Sequence[CallReport]) -> tuple[Fold, ...]:
    if calls[0].status not in ("missed", "excluded", "not_captured"):
        return ()
    template = _NUMBER.sub("*", calls[0].path)
    others = [call for call in report.calls if call.status in ("rewritten", "unknown") and _NUMBER.sub("*", call.path) == template]
    return fold_calls([call for call in others if call not in calls])


# --- names ------------------------------------------------------------------------------------------------------------------------------


def _named(report: ReportData, name: str) -> list[CallReport]:
    """The calls of a name; for a folded label the first one, as the others are like it."""
    found = [call for call in report.calls if name in (call.path, call.key)]
    if found:
        return found
    fold = next((fold for fold in _all_folds(fold_calls(report.calls)) if fold.label == name), None)
    if fold is not None:
        return [fold.calls[0]]
    raise ValueError(_no_such_call(report, name))


def _all_folds(folds: Iterable[Fold]) -> Iterable[Fold]:
    for fold in folds:
        yield fold
        yield from _all_folds(fold.covered)


def _no_such_call(report: ReportData, name: str) -> str:
    if report.pending:
        return f"nothing has been captured yet, so there is no call {name!r}: call the model once, or explain() it"
    if not report.calls:
        return f"there is no call {name!r}: no annotated layer was called"
    path, _, index = name.partition("#")
    same_path = [call.key for call in report.calls if call.path == path]
    if index and same_path:
        return f"{path} has no call #{index}; its calls are {', '.join(same_path)}"
    below = [call.path for call in report.calls if call.path.startswith(f"{path}.")] if path else []
    if below:
        return f"{path} is not a layer call, but contains some: {_listed(below)}"
    names = list(dict.fromkeys(call.path for call in report.calls))
    near = difflib.get_close_matches(path, names, n=3, cutoff=0.5) or [each for each in names if each.endswith(f".{path}")][:3]
    hint = (
        f"; did you mean {' or '.join(near)}?" if near else f"; the calls are {_listed([fold.label for fold in fold_calls(report.calls)])}"
    )
    return f"there is no layer call {name!r}{hint}"


def _listed(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + rest


# --- text -------------------------------------------------------------------------------------------------------------------------------


def render_why(why: Why, width: int | None = None) -> str:
    """Return the explanation as text; this is what ``print(report.why(...))`` shows.

    Args:
        why: The explanation.
        width: Columns; by default those of the terminal, 80 where there is none.
    """
    width = columns(width)
    lines: list[str] = []
    several = len(why.explanations) > 1
    for explanation in why.explanations:
        lines += [""] * bool(lines)
        lines += _explanation(explanation, width, tell_graph=several)
    lines += _others(why, width)
    return "\n".join(lines)


def _explanation(explanation: Explanation, width: int, *, tell_graph: bool) -> Iterator[str]:
    call, decision = explanation.call, explanation.decision
    name = call.key if call.index or tell_graph else call.path
    graph = f" in graph {decision.graph}" if tell_graph and decision.graph >= 0 else ""
    yield from wrapped(f"{name}{graph} {_OUTCOMES[decision.status]}{_main_point(decision)}", width)
    yield from wrapped(_what_it_is(call, decision), width)
    yield from (f"  {text}" for text in decision.inputs)
    if decision.gates:
        yield ""
        yield "The call itself:"
        yield from _gates(decision.gates, width)
    for number, candidate in enumerate(decision.candidates, 1):
        yield ""
        yield from wrapped(f"Candidate {number}, {_name(candidate)}, {_verdict(candidate, decision)}:", width)
        yield from _gates(candidate.gates, width)
    yield from _conclusion(explanation, width)


def _main_point(decision: GraphDecision) -> str:
    if decision.status == "rewritten":
        return f": {decision.kernel}"
    if decision.status == "unknown":
        return f", {decision.kernel or decision.candidates[-1].name}: only running it would tell" if decision.candidates else ""
    if decision.status == "missed" and decision.candidates:
        count = len(decision.candidates)
        who = {1: "the only candidate was", 2: "both candidates were"}.get(count, f"all {count} candidates were")
        return f": {who} turned away"
    if decision.status == "excluded" or not decision.misses:
        return ""
    miss = decision.misses[0]
    return f": {miss.message}" if miss.code == decision.status else f": {miss}"


def _what_it_is(call: CallReport, decision: GraphDecision) -> str:
    defined = f" at {call.short_location}" if call.location else ""
    layer = f", {call.layer}{defined}" if call.layer and call.layer != call.layer_name else f",{defined}" if defined else ""
    mode = "" if decision.training is None else ", in training mode" if decision.training else ", in eval mode"
    read = "" if call.annotation == "attribute" else f" (read at {shortened(call.annotation)})"
    return f"Layer name {call.layer_name}{read}{layer}{mode}{', called with' if decision.inputs else ''}"


def _name(candidate: CandidateResult) -> str:
    return str(candidate.kernel) if candidate.kernel is not None else candidate.name


def _verdict(candidate: CandidateResult, decision: GraphDecision) -> str:
    if candidate.outcome == "failed":
        return "was turned away"
    if decision.status == "rewritten":
        return "was taken"
    return "may do" if candidate.outcome == "unknown" else "passed"


def _gates(gates: tuple[GateResult, ...], width: int) -> Iterator[str]:
    """One line for each gate that has something to say, and one for those between that just passed."""
    for silent, group in itertools.groupby(gates, lambda gate: gate.outcome == "passed" and not gate.note):
        if silent:
            yield from wrapped(", ".join(gate.name for gate in group), width, first="  passed  ", then=_COLUMN)
            continue
        for gate in group:
            said = gate.miss if gate.miss is not None else gate.note
            yield from wrapped(f"{gate.name}: {said}" if said else gate.name, width, first=f"  {gate.outcome:<8}", then=_COLUMN + "  ")


def _conclusion(explanation: Explanation, width: int) -> Iterator[str]:
    decision, nearest = explanation.decision, explanation.nearest
    if decision.lowering is not None:
        yield ""
        remarks = "; ".join(decision.lowering.remarks[1:] if decision.lowering.name != "traced" else decision.lowering.remarks)
        more = f"; it {remarks}" if remarks else ""
        yield from wrapped(f"In a compiled graph it is {decision.lowering.name}: {decision.lowering.reason}{more}.", width)
    if decision.evidence is not None:
        yield ""
        yield from wrapped(_trust(decision.evidence), width)
    if not explanation.change:
        return
    yield ""
    if nearest is None:
        yield from wrapped(f"It would match {explanation.change}.", width)
        return
    closest = "It" if len(decision.candidates) == 1 else f"{_name(nearest)} came closest. It"
    yield from wrapped(f"{closest} would match {explanation.change}.", width)


def _trust(evidence: Evidence) -> str:
    if evidence.how == "probed":
        return f"It was probed before it was used{f'; the record is {evidence.record}' if evidence.record else ''}."
    return f"It was not probed before it was used: {evidence.reason or 'verification was off (verify=)'}."


def _others(why: Why, width: int) -> Iterator[str]:
    """What distinguishes the call from those like it that got a kernel."""
    if not why.alike:
        return
    labels = ", ".join(f"{fold.label} x{len(fold.calls)}" if len(fold.calls) > 1 else fold.label for fold in why.alike)
    yield ""
    yield from wrapped(f"Others like it get a kernel: {labels}.", width)
    theirs, own = why.alike[0].calls[0].decisions[-1], why.explanations[0].decision
    for mine, other in zip(own.inputs, theirs.inputs, strict=False):
        if mine != other:
            name, _, value = mine.partition(": ")
            yield from wrapped(f"{name} is {value} here, {other.partition(': ')[2]} there", width, first="  ", then="    ")
    if None not in (own.training, theirs.training) and own.training != theirs.training:
        yield (
            "  the layer is in training mode here, in eval mode there"
            if own.training
            else "  the layer is in eval mode here, in training mode there"
        )
