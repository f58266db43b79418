"""What is different between two reports: of one model on two days, with two versions of a library, for two targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .fold import (
    Message,
    differing_decisions,
    first_message,
    fold_alike,
    folded_message,
    nameless,
    outcome_of,
    reason_of,
    repeated_paths,
)
from .model import CallReport, ReportData
from .terminal import columns, wrapped

Aspects = dict[str, str | tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that two reports say differently.

    Args:
        what: What it is, e.g. ``torch``, ``note``, ``input hidden_states``; empty for the decision about a call.
        before: What the first report says; empty if nothing.
        after: What the second one says.
    """

    what: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class CallChange:
    """A layer call of which two reports say different things.

    Args:
        before: The call in the first report; None if it is new.
        after: The call in the second report; None if it is gone.
    """

    before: CallReport | None
    after: CallReport | None

    @property
    def call(self) -> CallReport:
        """The newer side."""
        found = self.after if self.after is not None else self.before
        assert found is not None
        return found

    @property
    def lost(self) -> bool:
        """Whether it ran a kernel, or might have, and neither runs one now nor is covered by one."""
        return _runs(self.before) and not _runs(self.after) and (self.after is None or self.after.status != "covered")

    @property
    def gained(self) -> bool:
        """Whether it runs a kernel now, or might, and did not before."""
        return _runs(self.after) and not _runs(self.before)

    def differences(self) -> tuple[Difference, ...]:
        """What is different, the decision first."""
        return differences_of([self])


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is different between two reports. True in a condition if anything is.

    Compared is what the reports say of versions, targets and captures, and of each call by its newest decision: status, kernel, reasons,
    inputs, operations, and what earlier graphs decided differently. Names of nodes and lines of source files are not compared.

    Args:
        versions: Libraries of other versions.
        captures: Model, targets, number of graphs, and notes.
        calls: Calls that are new, gone or not decided alike, in the order of the second report, those that are gone last.
        alike: How many calls are decided alike.
        repeated: The paths that are called more than once.
    """

    versions: tuple[Difference, ...]
    captures: tuple[Difference, ...]
    calls: tuple[CallChange, ...]
    alike: int
    repeated: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.versions or self.captures or self.calls)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is different."""
        return not self

    @property
    def lost(self) -> tuple[CallChange, ...]:
        """The calls that ran a kernel, or might have, and no longer do."""
        return tuple(change for change in self.calls if change.lost)

    @property
    def gained(self) -> tuple[CallChange, ...]:
        """The calls that run a kernel now, or might, and did not before."""
        return tuple(change for change in self.calls if change.gained)

    def __str__(self) -> str:
        return render_comparison(self)


def compare(before: ReportData, after: ReportData) -> Comparison:
    """Return what is different in `after`; this is what `Report.compare` returns."""
    old, new = ({call.key: call for call in report.calls} for report in (before, after))
    pairs = [(old.get(key), call) for key, call in new.items()] + [(call, None) for key, call in old.items() if key not in new]
    changes = tuple(change for change in (CallChange(*pair) for pair in pairs) if change.before is None or _differ(change))
    return Comparison(
        tuple(_mapping_differences(dict(before.versions), dict(after.versions))),
        tuple(_capture_differences(before, after)),
        changes,
        len(pairs) - len(changes),
        repeated_paths((*before.calls, *after.calls)),
    )


def differences_of(changes: Sequence[CallChange], message: Message = first_message) -> tuple[Difference, ...]:
    """Return what is different in all these calls alike.

    Args:
        changes: Changes that differ in the names of nodes and calls only.
        message: Returns the one message of misses that differ in these names only.
    """
    sides = [[side for change in changes if (side := getattr(change, name)) is not None] for name in ("before", "after")]
    before, after = (_aspects(side, message) if side else {} for side in sides)
    if not (before and after):
        return tuple(_mapping_differences({"": before.get("", "")}, {"": after.get("", "")}))
    silent = set[str]()
    if sides[0][0].status != sides[1][0].status:
        silent |= {"lowering", "evidence", "passed over"}  # of a kernel, of which the decision says that it is there or not
    if not all(_is_described(side[0]) for side in sides):
        silent |= {name for aspects in (before, after) for name in aspects if name in ("mode", "operations") or name.startswith("input ")}
    return tuple(found for found in _mapping_differences(before, after) if found.what not in silent)


# --- one call ---------------------------------------------------------------------------------------------------------------------------


def _runs(call: CallReport | None) -> bool:
    return call is not None and call.status in ("rewritten", "unknown")


def _differ(change: CallChange) -> bool:
    return bool(differences_of([change], nameless))


def _is_described(call: CallReport) -> bool:
    """Whether inputs and operations are known: not of a call that no graph has captured, nor where no kernel is mapped to the name."""
    return bool(call.decisions[-1].inputs or call.decisions[-1].before)


def _aspects(calls: Sequence[CallReport], message: Message) -> Aspects:
    """What is said of calls that are decided alike, by what it is about."""
    call, decision = calls[0], calls[0].decisions[-1]
    decisions = [call.decisions[-1] for call in calls]
    found: Aspects = {"": outcome_of(decisions, message), "layer": f"{call.layer_name} ({call.layer})" if call.layer else call.layer_name}
    if decision.training is not None:
        found["mode"] = "training" if decision.training else "inference"
    for text in decision.inputs:
        name, _, described = text.partition(": ")
        found[f"input {name}"] = described
    if decision.before:
        found["operations"] = tuple(operation.code for operation in decision.before)
    if decision.lowering is not None:
        found["lowering"] = "; ".join(dict.fromkeys((decision.lowering.name, *decision.lowering.remarks)))
    if decision.evidence is not None:
        found["evidence"] = str(decision.evidence)
    if decision.status in ("rewritten", "unknown") and decision.misses:
        turned_away = range(len(decision.misses))
        found["passed over"] = "; ".join(reason_of([d.misses[number] for d in decisions], message) for number in turned_away)
    earlier = [differing_decisions(call) for call in calls]
    if earlier[0]:
        found["earlier graphs"] = "; ".join(outcome_of(alike, message) for alike in zip(*earlier, strict=False))
    return found


# --- reports as a whole -----------------------------------------------------------------------------------------------------------------


def _capture_differences(before: ReportData, after: ReportData) -> Iterator[Difference]:
    yield from _mapping_differences(_about(before), _about(after))
    yield from (Difference("note", note, "") for note in before.notes if note not in after.notes)
    yield from (Difference("note", "", note) for note in after.notes if note not in before.notes)


def _about(report: ReportData) -> dict[str, str]:
    # Graphs are not in a report that was saved, so they are counted by what calls say of them.
    graphs = {decision.graph for call in report.calls for decision in call.decisions if decision.graph >= 0}
    return {
        "captured": "not yet" if report.pending else report.capture,
        "model": report.model,
        "target": ", ".join(map(str, report.targets)),
        "graphs with layer calls": str(len(graphs)),
    }


def _mapping_differences(before: Mapping[str, str | tuple[str, ...]], after: Mapping[str, str | tuple[str, ...]]) -> Iterator[Difference]:
    for what in dict.fromkeys((*before, *after)):
        first, second = before.get(what, ""), after.get(what, "")
        if first != second:
            yield Difference(what, *_shown(first, second))


def _shown(before: str | tuple[str, ...], after: str | tuple[str, ...]) -> tuple[str, str]:
    """Both as text; of lists the first place in which they differ."""
    if isinstance(before, str) and isinstance(after, str):
        return before, after
    lines = [(side,) if isinstance(side, str) else side for side in (before, after)]
    number = next((n for n, (first, second) in enumerate(zip(*lines, strict=False)) if first != second), min(map(len, lines)))
    return "".join(lines[0][number : number + 1]), "".join(lines[1][number : number + 1])


# --- text -------------------------------------------------------------------------------------------------------------------------------


def render_comparison(comparison: Comparison, width: int | None = None, head: str | None = None) -> str:
    """Return the comparison as text; this is what ``print(report.compare(other))`` shows.

    Args:
        comparison: The comparison.
        width: Columns; by default those of the terminal, 80 where there is none.
        head: The first line; by default the `summary`.
    """
    width = columns(width)
    lines = [summary(comparison) if head is None else head]
    for title, differences in (("versions", comparison.versions), ("captures", comparison.captures)):
        lines += [title] if differences else []
        lines += [f"  {_difference(difference)}" for difference in differences]
    lines += ["calls"] if comparison.calls else []
    lines += (f"  {line}" for line in _call_lines(comparison))
    return "\n".join(piece for line in lines for piece in wrapped(line, width, then=" " * (len(line) - len(line.lstrip()) + 4)))


def _call_lines(comparison: Comparison) -> Iterator[str]:
    """One line for each fold of calls that changed alike, and an indented one for each thing more that is different in it."""
    by_key = {change.call.key: change for change in comparison.calls}
    for fold in fold_alike((change.call for change in comparison.calls), lambda call: _alike(by_key[call.key]), comparison.repeated):
        members = [by_key[call.key] for call in fold.calls]
        mark = "+ " if members[0].before is None else "- " if members[0].after is None else ""
        name = f"{mark}{fold.name}"
        first, *others = differences_of(members, folded_message)
        if first.what:
            yield name
            others = [first, *others]
        else:
            yield f"{name}: {' -> '.join(filter(None, (first.before, first.after)))}"
        yield from (f"    {_difference(difference)}" for difference in others)


def summary(comparison: Comparison) -> str:
    """Return one line: how many calls changed, and what else is different."""
    if not comparison:
        return f"no difference: {_count(comparison.alike, 'call is', 'calls are')} decided alike"
    new = sum(change.before is None for change in comparison.calls)
    gone = sum(change.after is None for change in comparison.calls)
    changed = len(comparison.calls) - new - gone
    total = comparison.alike + len(comparison.calls)
    parts = [f"{changed} of {_count(total, 'call', 'calls')} decided differently"]
    parts += [f"{new} new"] if new else []
    parts += [f"{gone} gone"] if gone else []
    parts += ["other versions"] if comparison.versions else []
    parts += ["other captures"] if comparison.captures else []
    return ", ".join(parts)


def _alike(change: CallChange) -> tuple[object, ...]:
    return (change.before is None, change.after is None, differences_of([change], nameless))


def _difference(difference: Difference) -> str:
    if difference.what == "note":
        return f"+ note: {difference.after}" if difference.after else f"- note: {difference.before}"
    return f"{difference.what}: {difference.before or 'none'} -> {difference.after or 'none'}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
