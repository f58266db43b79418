"""The report as a unified diff: for each layer call that changes, the operations of its region and the kernel's call that replaces them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence, Set
from dataclasses import replace

from ..kernels.describe import Operation
from .fold import Fold, fold_calls, folded_message, number_set
from .model import CallReport, GraphDecision, ReportData

_NUMBER = re.compile(r"(?<![^.])[0-9]+(?![^.])")


def render_diff(report: ReportData) -> str:
    """Return the report as a unified diff whose hunks are layer calls; this is what `Report.diff` returns.

    Identical calls share a hunk, ``@@ layers.{0..31}.input_layernorm x32 ... @@``. After the second ``@@`` stands how
    the kernel enters the graph, and which gates are unknown. A call that stays as it is although others like it change has a
    hunk that says why; all others that stay are counted in the last line.
    """
    if report.pending:
        return "# nothing captured yet: the first call captures the model"
    called_again = {call.path for call in report.calls if call.index > 0}
    different = [(call, _different(call)) for call in report.calls]
    most = max((len(decisions) for _, decisions in different), default=0)
    hunks = []
    for age in range(most):
        calls = [replace(call, decisions=(decisions[age],)) for call, decisions in different if len(decisions) > age]
        hunks += ["\n".join(_hunk(fold, called_again, tell_graph=most > 1)) for fold in fold_calls(_worth_a_hunk(calls), _looks)]
    name = report.model or "model"
    head = [f"--- {name}", f"+++ {name} with kernels"] if hunks else []
    return "\n".join([*head, *hunks, *_rest(report)])


def _worth_a_hunk(calls: Sequence[CallReport]) -> list[CallReport]:
    """The calls that change, and those that do not although others like them do."""
    changed = {_template(call) for call in calls if call.decisions[0].after}
    return [call for call in calls if call.decisions[0].after or (call.status == "missed" and _template(call) in changed)]


def _hunk(fold: Fold, called_again: Set[str], *, tell_graph: bool) -> Iterator[str]:
    call, decision = fold.calls[0], fold.calls[0].decisions[0]
    label = fold.label if "#" in fold.label or call.path not in called_again else f"{fold.label}#{call.index}"
    times = f" x{len(fold.calls)}" if len(fold.calls) > 1 else ""
    graphs = f"  graph {number_set(call.decisions[0].graph for call in fold.calls)}" if tell_graph else ""
    place = f"  {call.short_location}" if call.location else ""
    remark = _remark(fold, decision)
    yield f"@@ {label}{times}  {call.layer_name}{place}{graphs} @@{f' {remark}' if remark else ''}"
    yield from (f" # {text}" for text in decision.inputs)
    if decision.after:
        yield from (f"-{line}" for operation in decision.before for line in _lines(operation))
        yield from (f"+{line}" for operation in decision.after for line in _lines(operation))


def _remark(fold: Fold, decision: GraphDecision) -> str:
    if decision.status == "missed":
        message = folded_message([call.decisions[0].misses[0] for call in fold.calls]).splitlines()[0]
        return f"stays: {decision.misses[0].code}: {message}"
    unknown = [f"{gate.name}: {gate.note}" for candidate in decision.candidates for gate in candidate.gates if gate.outcome == "unknown"]
    if decision.status == "unknown":
        return f"unknown: {'; '.join(dict.fromkeys(unknown))}"
    return "; ".join(decision.lowering.remarks) if decision.lowering is not None else ""


def _rest(report: ReportData) -> Iterator[str]:
    """How many calls have no hunk with a change, by status and, for misses, by code."""
    staying = [call for call in report.calls if not call.decisions[-1].after]
    if not report.calls:
        yield "# no annotated layer was called"
    if not staying:
        return
    counts = Counter(call.status for call in staying)
    codes = Counter(call.miss.code for call in staying if call.status == "missed" and call.miss is not None)
    because = f" ({', '.join(f'{code} x{count}' for code, count in codes.most_common())})"
    parts = ", ".join(f"{status} {count}{because if status == 'missed' else ''}" for status, count in counts.items())
    other = "other " if len(staying) < len(report.calls) else ""
    calls = "layer call stays as it is" if len(staying) == 1 else "layer calls stay as they are"
    yield f"# {len(staying)} {other}{calls}: {parts}"


def _different(call: CallReport) -> tuple[GraphDecision, ...]:
    """The call's decisions without those that say the same of the same operations, the newest first."""
    return tuple({_looks_of(decision): decision for decision in reversed(call.decisions)}.values())


def _looks(call: CallReport) -> Hashable:
    return (call.location, _looks_of(call.decisions[0]))


def _looks_of(decision: GraphDecision) -> Hashable:
    unknown = tuple(gate.note for candidate in decision.candidates for gate in candidate.gates if gate.outcome == "unknown")
    return (decision.status, decision.inputs, decision.before, decision.after, unknown)


def _template(call: CallReport) -> str:
    return _NUMBER.sub("*", call.path)


def _lines(operation: Operation) -> Sequence[str]:
    return str(operation).splitlines()
