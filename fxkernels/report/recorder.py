"""Collects the plans of one backend's captures and makes a report of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

from torch import fx

from ..admission import Admitted
from ..annotate import Annotation
from ..decide.decider import KernelUse
from ..decide.gates import NOT_CAPTURED
from ..kernels.describe import Description
from ..passes.dataflow import reads_of
from ..passes.fuse import Matched
from ..passes.layer_call import CallSite, LayerCall
from ..passes.miss import Miss
from ..passes.plan import Decision
from ..target import Target
from .counters import RunCounters
from .model import CallReport, Evidence, GraphDecision
from .publish import publish, remember
from .report import Report


@dataclass(frozen=True, slots=True)
class _Row:
    site: CallSite
    index: int
    decision: Decision
    node: str
    reads: tuple[str, ...]


@dataclass(slots=True)
class _Captured:
    """One captured graph: what was decided in it, and why it ended before its frame did."""

    module: fx.GraphModule
    rows: tuple[_Row, ...]
    break_reason: str | None
    matched: tuple[Matched, ...]


@dataclass(frozen=True, slots=True)
class About:
    """What captures as a whole depend on. See `Report`."""

    model: str = ""
    targets: tuple[Target, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    capture: str = "dynamo"


class Recorder:
    """What has been captured so far. A graph that is handed in again under the same key replaces its earlier record.

    Args:
        annotated: Returns the annotated modules of the known models: path -> (annotation, whether the forward is overridden).
        about: Returns what the captures as a whole depend on.
        counters: Counts the runs of the calls, with ``counters=True``.
    """

    def __init__(
        self,
        annotated: Callable[[], dict[str, tuple[Annotation, bool]]],
        about: Callable[[], About] = About,
        counters: RunCounters | None = None,
    ) -> None:
        self._annotated, self._about, self._counters = annotated, about, counters
        self._captured: dict[Hashable, _Captured] = {}
        self._notes: dict[str, None] = {}
        self._limits: dict[str, None] = {}
        self.report = Report(pending=True, capture=about().capture, ran=counters)
        self.listeners: list[Callable[[Report], None]] = []

    def decisions(self) -> Iterator[tuple[str, CallSite, Decision]]:
        """Yield every decision of the captured graphs, with the call's key and where it stands."""
        for captured in self._captured.values():
            for row in captured.rows:
                yield f"{row.site.path}#{row.index}", row.site, row.decision

    def note(self, sentence: str) -> None:
        """Add a sentence about the capture as a whole."""
        self._notes[sentence] = None
        if self._captured:
            self._update()
        else:
            self.adopt(dataclasses.replace(self.report, notes=()))

    def adopt(self, report: Report) -> None:
        """Show another capture's report until there is one of our own."""
        self.report = dataclasses.replace(report, notes=(*self._notes, *report.notes), ran=self._counters)
        self._tell()

    def hit_recompile_limit(self, function: str) -> None:
        """Remember that Dynamo gave up on a frame, which from now on runs without kernels."""
        self._limits[function] = None
        self.note(f"Dynamo's recompile limit was reached in {function}: new inputs run the original code there")

    def record(
        self,
        key: Hashable,
        gm: fx.GraphModule,
        entries: Iterable[tuple[LayerCall, Decision]],
        break_reason: str | None,
        matched: tuple[Matched, ...] = (),
    ) -> None:
        """Take in the decisions for one captured graph and those nested in it, and how often each fusion was found there.

        Logs one line, unless a further graph has no layer call.
        """
        first = not self._captured
        entries = tuple(entries)
        reads = reads_of(gm, [call for call, _ in entries]) if entries else {}
        rows = tuple(_Row(call.site, call.index, decision, call.node, reads[call.key]) for call, decision in entries)
        self._captured[key if key is not None else len(self._captured)] = _Captured(gm, rows, break_reason, matched)
        self._update()
        if first or rows:
            publish(self.report)

    def _update(self) -> None:
        self.report = self._build()
        remember(self.report)
        self._tell()

    def _tell(self) -> None:
        for listener in self.listeners:
            listener(self.report)

    def _build(self) -> Report:
        rows: dict[tuple[str, int], list[tuple[_Row, int]]] = {}
        for number, captured in enumerate(self._captured.values()):
            for row in captured.rows:
                rows.setdefault((row.site.path, row.index), []).append((row, number))
        calls = [_call_report(path, index, found) for (path, index), found in rows.items()]
        seen = {call.path for call in calls}
        twins = {_without_numbers(call.path): call.path for call in calls}
        missing = {path: found for path, found in self._annotated().items() if path not in seen}
        calls += [self._not_captured(path, *found, twins.get(_without_numbers(path))) for path, found in missing.items()]
        graphs = tuple(captured.module for captured in self._captured.values())
        about = self._about()
        return Report(
            tuple(calls),
            graphs,
            notes=(*self._notes, *self._unmatched()),
            capture=about.capture,
            model=about.model,
            targets=about.targets,
            versions=about.versions,
            ran=self._counters,
        )

    def _unmatched(self) -> Iterator[str]:
        """What is to be said of fusions that a kernel is mapped to, and that no captured graph has."""
        matched = [each for captured in self._captured.values() for each in captured.matched]
        for name in dict.fromkeys(each.layer_name for each in matched):
            of_name = [each for each in matched if each.layer_name == name]
            if not any(each.count for each in of_name):
                misses = [each.near_miss for each in of_name if each.near_miss is not None]
                nearest = f"; nearest: {max(misses, key=lambda miss: miss.matched).text}" if misses else ""
                yield f"fusion {name} is mapped and matched nothing{nearest}"

    def _not_captured(self, path: str, annotation: Annotation, overridden: bool, twin: str | None) -> CallReport:
        if overridden:
            miss = Miss("forward_overridden", "its class overrides the annotated forward")
        else:
            miss = Miss(NOT_CAPTURED, "no captured graph has called it{reason}", {"reason": self._reason(twin)})
        decision = GraphDecision(-1, "not_captured", None, (miss,))
        return CallReport(path, 0, annotation.layer_name, "", None, (decision,), annotation.source)

    def _reason(self, twin: str | None) -> str:
        if self._limits:
            return f"; Dynamo's recompile limit was reached in {', '.join(self._limits)}"
        reasons = dict.fromkeys(captured.break_reason for captured in self._captured.values() if captured.break_reason)
        if reasons:
            return f"; a graph ended early: {'; '.join(str(reason) for reason in reasons)}"
        # Dynamo compiles modules that its guards cannot tell apart once (blocks compiled by themselves, frames after a graph break).
        return f"; the graph of {twin} serves it too where Dynamo finds the two alike" if twin is not None else ""


def _without_numbers(path: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in path.split("."))


def _call_report(path: str, index: int, found: list[tuple[_Row, int]]) -> CallReport:
    site = found[-1][0].site
    decisions = tuple([_graph_decision(row.site, row.decision, number, row.node, row.reads) for row, number in found])
    return CallReport(path, index, site.layer_name, site.layer, site.location, decisions, site.annotation)


def _graph_decision(site: CallSite, decision: Decision, graph: int, node: str = "", reads: tuple[str, ...] = ()) -> GraphDecision:
    """Return what a report says of one decision. See `GraphDecision` for the arguments."""
    description: Description = decision.description or Description()
    use: KernelUse | None = decision.use
    return GraphDecision(
        graph,
        decision.status,
        use.kernel.identity if use is not None else None,
        decision.misses,
        use.lowering if use is not None else None,
        training=site.training,
        gates=decision.gates,
        candidates=decision.candidates,
        evidence=_evidence(use.admitted) if use is not None else None,
        inputs=description.inputs,
        before=description.before,
        after=description.after,
        node=node,
        reads=reads,
    )


def _evidence(admitted: Admitted | None) -> Evidence | None:
    return Evidence(admitted.how, admitted.reason, admitted.key) if admitted is not None else None
