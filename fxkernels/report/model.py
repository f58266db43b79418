"""The data of a report: what happened to every layer call, as one immutable value. Renderings know this and nothing else of a report."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from torch import fx

from ..kernels.describe import Operation
from ..kernels.layer import KernelIdentity
from ..kernels.lowering.lowering import Lowering
from ..passes.gate import CandidateResult, GateResult
from ..passes.miss import Miss
from ..passes.plan import Status
from ..target import Target
from .counters import RunCounters

_PACKAGES = re.compile(r".*[/\\](?:site|dist)-packages[/\\]")


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a kernel is trusted with a call.

    Args:
        how: ``"probed"``, ``"unprobed"`` (it could not be probed) or ``"unverified"`` (verification was off).
        reason: Why it is unprobed, or which help a probed kernel needs, as a sentence; else empty.
        record: Key of the record that ``fxkernels admitted show`` shows, if there is one.
    """

    how: str
    reason: str = ""
    record: str | None = None

    def __str__(self) -> str:
        return f"{self.how}: {self.reason}" if self.reason else self.how


@dataclass(frozen=True, slots=True)
class GraphDecision:
    """What one captured graph does with a layer call.

    Args:
        graph: Number of the graph, an index into `Report.graphs`; -1 for a call that no graph has captured.
        status: What happened to the call.
        kernel: Who replaces it, if it was rewritten.
        misses: Every miss on the way, in the order of the candidates.
        lowering: How the kernel enters a compiled graph; None where its Python runs as it is.
        training: The layer's training flag, where a kernel is mapped to its name.
        gates: What the call itself was asked, in order.
        candidates: The repositories that were asked for a kernel, with their gates; the last one is the one that was taken, if any was.
        evidence: Why the kernel is trusted; None where none runs.
        inputs: The call's inputs as the layer names them, e.g. ``hidden_states: bf16[2, 8, 64]``.
        before: The operations of the region.
        after: The operations that replace them; empty if none do.
        node: Name of the node of the graph that has the call's first output; empty for a call that no graph has captured.
        reads: Keys of the calls whose outputs reach this one's inputs without passing through another call.
    """

    graph: int
    status: Status
    kernel: KernelIdentity | None = None
    misses: tuple[Miss, ...] = ()
    lowering: Lowering | None = None
    training: bool | None = None
    gates: tuple[GateResult, ...] = ()
    candidates: tuple[CandidateResult, ...] = ()
    evidence: Evidence | None = None
    inputs: tuple[str, ...] = ()
    before: tuple[Operation, ...] = ()
    after: tuple[Operation, ...] = ()
    node: str = ""
    reads: tuple[str, ...] = ()

    @property
    def unknown_gates(self) -> tuple[GateResult, ...]:
        """The unknown gates of the candidate that would be taken."""
        taken = self.candidates[-1].gates if self.status == "unknown" and self.candidates else ()
        return tuple(gate for gate in taken if gate.outcome == "unknown")


def shortened(location: str) -> str:
    """Return a ``file:line`` as seen from the installed packages or the current directory, if it is in one of them.

    It leaves out where this machine keeps its packages: ``transformers/models/llama/modeling_llama.py:52``.
    """
    in_packages = _PACKAGES.match(location)
    return location[in_packages.end() :] if in_packages is not None else location.removeprefix(f"{Path.cwd()}/")


@dataclass(frozen=True, slots=True)
class CallReport:
    """One layer call and what was decided about it.

    Args:
        path: Module path, e.g. ``model.layers.3.norm``.
        index: Which call of that path, from 0.
        layer_name: The annotation's name.
        layer: The annotated class or function.
        location: ``file:line`` of the layer's definition, if known.
        decisions: One per captured graph, the newest last.
        annotation: Where the layer name was found: ``"attribute"`` (of the class or function), or ``file:line`` of the decorator in the
            source, where the decorator itself has done nothing.
    """

    path: str
    index: int
    layer_name: str
    layer: str
    location: str | None
    decisions: tuple[GraphDecision, ...]
    annotation: str = "attribute"

    @property
    def key(self) -> str:
        """The call's name, e.g. ``model.layers.3.norm#0``."""
        return f"{self.path}#{self.index}"

    @property
    def short_location(self) -> str:
        """The location as `shortened` gives it; empty if there is none."""
        return shortened(self.location or "")

    @property
    def status(self) -> Status:
        """The newest graph's decision."""
        return self.decisions[-1].status

    @property
    def kernel(self) -> KernelIdentity | None:
        """The kernel that replaces the call in the newest graph."""
        return self.decisions[-1].kernel

    @property
    def miss(self) -> Miss | None:
        """Why the call was not rewritten in the newest graph; None if it was, or would be as far as is known."""
        newest = self.decisions[-1]
        return newest.misses[0] if newest.misses and newest.status not in ("rewritten", "unknown") else None


@dataclass(frozen=True, slots=True)
class ReportData:
    """What the last captures of a model did: built from the plans that the rewrites executed, or would execute.

    Args:
        calls: One entry per module path and call index, in the order of their first capture.
        graphs: The captured graphs, rewritten; without the markers that led to it.
        pending: Whether nothing has been captured yet.
        notes: Sentences about the captures as a whole (why it went the Dynamo way, a recompile limit).
        capture: ``"dynamo"`` or ``"symbolic"``.
        model: Class of the model, where it is known.
        targets: What kernels were chosen for, one for each device type that a call has.
        versions: Name and version of each library that the result depends on.
        ran: How often each call has run its kernel, with ``counters=True``; it goes on counting, and a copy has none.
    """

    calls: tuple[CallReport, ...] = ()
    graphs: tuple[fx.GraphModule, ...] = ()
    pending: bool = False
    notes: tuple[str, ...] = ()
    capture: str = "dynamo"
    model: str = ""
    targets: tuple[Target, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    ran: RunCounters | None = field(default=None, compare=False, repr=False)

    def __reduce__(self) -> tuple[object, ...]:
        # Graphs hold kernels and compiled state; they are captured anew where the model is unpickled.
        return type(self), (self.calls, (), self.pending, self.notes, self.capture, self.model, self.targets, self.versions)

    def __deepcopy__(self, memo: object) -> Self:
        return self

    @property
    def counts(self) -> Counter[Status]:
        """How many calls have each status."""
        return Counter(call.status for call in self.calls)

    @property
    def rewritten(self) -> tuple[CallReport, ...]:
        """The calls that run a kernel."""
        return tuple(call for call in self.calls if call.status == "rewritten")

    @property
    def summary(self) -> str:
        """One line: how many calls run which kernels, and the most frequent reasons why the others do not."""
        if self.pending:
            return "nothing captured yet: the first call captures the model"
        if not self.calls:
            return "no annotated layer was called, nothing was rewritten"
        counts = self.counts
        head = f"{counts['rewritten']} of {len(self.calls)} layer calls rewritten"
        if counts["unknown"]:
            head += f", {counts['unknown']} more if their kernels pass what was not asked"
        reasons = Counter(call.miss.code for call in self.calls if call.miss is not None)
        if not reasons:
            return head
        return f"{head} ({', '.join(f'{code} x{count}' for code, count in reasons.most_common(4))})"
