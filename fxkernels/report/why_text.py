"""The explanation of one layer call as text, as a person would give it."""

from __future__ import annotations

import itertools
import shutil
import textwrap
from collections.abc import Iterator

from ..passes.gate import Candidate, Gate
from .location import short_location
from .model import CallReport, Evidence, GraphDecision
from .why import Explanation, Why

_NARROWEST = 40
_COLUMN = " " * len("  passed  ")

_OUTCOMES = {
    "rewritten": "runs a kernel",
    "missed": "keeps its original layer",
    "excluded": "keeps its original layer: it is excluded",
    "covered": "has no kernel of its own: the layer around it has one",
    "not_captured": "was not captured",
    "unknown": "would perhaps run a kernel",
}


def render_why(why: Why, width: int | None = None) -> str:
    """Return the explanation as text; this is what ``print(report.why(...))`` shows.

    Args:
        why: The explanation.
        width: Columns; by default those of the terminal, 80 where there is none.
    """
    width = max(_NARROWEST, shutil.get_terminal_size((80, 24)).columns if width is None else width)
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
    yield from _paragraph(f"{name}{graph} {_OUTCOMES[decision.status]}{_main_point(decision)}", width)
    yield from _paragraph(_what_it_is(call, decision), width)
    yield from (f"  {text}" for text in decision.inputs)
    if decision.gates:
        yield ""
        yield "The call itself:"
        yield from _gates(decision.gates, width)
    for number, candidate in enumerate(decision.candidates, 1):
        yield ""
        yield from _paragraph(f"Candidate {number}, {_name(candidate)}, {_verdict(candidate, decision)}:", width)
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
    defined = f" at {short_location(call.location)}" if call.location else ""
    layer = f", {call.layer}{defined}" if call.layer and call.layer != call.layer_name else f",{defined}" if defined else ""
    mode = "" if decision.training is None else ", in training mode" if decision.training else ", in eval mode"
    read = "" if call.annotation == "attribute" else f" (read at {short_location(call.annotation)})"
    return f"Layer name {call.layer_name}{read}{layer}{mode}{', called with' if decision.inputs else ''}"


def _name(candidate: Candidate) -> str:
    return str(candidate.kernel) if candidate.kernel is not None else candidate.name


def _verdict(candidate: Candidate, decision: GraphDecision) -> str:
    if candidate.outcome == "failed":
        return "was turned away"
    if decision.status == "rewritten":
        return "was taken"
    return "may do" if candidate.outcome == "unknown" else "passed"


def _gates(gates: tuple[Gate, ...], width: int) -> Iterator[str]:
    """One line for each gate that has something to say, and one for those between that just passed."""
    for silent, group in itertools.groupby(gates, lambda gate: gate.outcome == "passed" and not gate.note):
        if silent:
            yield from _paragraph(", ".join(gate.name for gate in group), width, first="  passed  ", then=_COLUMN)
            continue
        for gate in group:
            said = gate.miss if gate.miss is not None else gate.note
            yield from _paragraph(f"{gate.name}: {said}" if said else gate.name, width, first=f"  {gate.outcome:<8}", then=_COLUMN + "  ")


def _conclusion(explanation: Explanation, width: int) -> Iterator[str]:
    decision, nearest = explanation.decision, explanation.nearest
    if decision.lowering is not None:
        yield ""
        remarks = "; ".join(decision.lowering.remarks[1:] if decision.lowering.name != "traced" else decision.lowering.remarks)
        more = f"; it {remarks}" if remarks else ""
        yield from _paragraph(f"In a compiled graph it is {decision.lowering.name}: {decision.lowering.reason}{more}.", width)
    if decision.evidence is not None:
        yield ""
        yield from _paragraph(_trust(decision.evidence), width)
    if not explanation.change:
        return
    yield ""
    if nearest is None:
        yield from _paragraph(f"It would match {explanation.change}.", width)
        return
    closest = "It" if len(decision.candidates) == 1 else f"{_name(nearest)} came closest. It"
    yield from _paragraph(f"{closest} would match {explanation.change}.", width)


def _trust(evidence: Evidence) -> str:
    if evidence.how == "probed":
        return f"It was probed before it was used{f'; the record is {evidence.record}' if evidence.record else ''}."
    return f"It was not probed before it was used: {evidence.reason or 'nobody asked for that (verify=)'}."


def _others(why: Why, width: int) -> Iterator[str]:
    """What distinguishes the call from those like it that got a kernel."""
    if not why.alike:
        return
    labels = ", ".join(f"{fold.label} x{len(fold.calls)}" if len(fold.calls) > 1 else fold.label for fold in why.alike)
    yield ""
    yield from _paragraph(f"Others like it get a kernel: {labels}.", width)
    theirs, own = why.alike[0].calls[0].decisions[-1], why.explanations[0].decision
    for mine, other in zip(own.inputs, theirs.inputs, strict=False):
        if mine != other:
            name, _, value = mine.partition(": ")
            yield from _paragraph(f"{name} is {value} here, {other.partition(': ')[2]} there", width, first="  ", then="    ")
    if None not in (own.training, theirs.training) and own.training != theirs.training:
        yield (
            "  the layer is in training mode here, in eval mode there"
            if own.training
            else "  the layer is in eval mode here, in training mode there"
        )


def _paragraph(text: str, width: int, *, first: str = "", then: str = "") -> Iterator[str]:
    start = first
    for line in text.splitlines():
        wrapped = textwrap.wrap(line, width, initial_indent=start, subsequent_indent=then, break_long_words=False, break_on_hyphens=False)
        yield from wrapped
        start = then
