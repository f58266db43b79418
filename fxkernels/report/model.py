"""The report: what happened to every layer call, as one immutable value."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from ..kernels.layer import KernelIdentity
from ..kernels.lowering.lowering import Lowering
from ..passes.gate import Candidate, Gate
from ..passes.miss import Miss
from ..passes.plan import Status
from ..target import Target
from .counters import RunCounters
from .operation import Operation

if TYPE_CHECKING:
    from .compare import Comparison
    from .numerics import Numerics
    from .why import Why


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a kernel is trusted with a call.

    Args:
        how: ``"probed"``, ``"unprobed"`` (it could not be probed) or ``"unverified"`` (nobody asked for it).
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
        after: The operations that take their place; empty if none do.
        node: Name of the node of the graph that has the call's first output; empty for a call that no graph has captured.
        reads: Keys of the calls whose outputs reach this one's inputs without passing through another call.
    """

    graph: int
    status: Status
    kernel: KernelIdentity | None = None
    misses: tuple[Miss, ...] = ()
    lowering: Lowering | None = None
    training: bool | None = None
    gates: tuple[Gate, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    evidence: Evidence | None = None
    inputs: tuple[str, ...] = ()
    before: tuple[Operation, ...] = ()
    after: tuple[Operation, ...] = ()
    node: str = ""
    reads: tuple[str, ...] = ()

    @property
    def unknown_gates(self) -> tuple[Gate, ...]:
        """The gates of the candidate that would be taken that nobody could answer."""
        taken = self.candidates[-1].gates if self.status == "unknown" and self.candidates else ()
        return tuple(gate for gate in taken if gate.outcome == "unknown")


@dataclass(frozen=True, slots=True)
class CallReport:
    """One layer call and what became of it.

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
class Report:
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
        return Report, (self.calls, (), self.pending, self.notes, self.capture, self.model, self.targets, self.versions)

    def __deepcopy__(self, memo: object) -> Report:
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

    def why(self, name: str) -> Why:
        """Return why a call runs the kernel that it runs, or none; print it.

        Args:
            name: A module path, a path with call index (``model.norm#1``), or a folded label as the report shows it.

        Raises:
            ValueError: If no call has this name; the message has the nearest names, or those below it.

        Example:
            >>> print(report.why("model.layers.3.norm"))
        """
        from .why import why

        return why(self, name)

    def diff(self) -> str:
        """Return a unified diff whose hunks are layer calls: before, the operations of the layer; after, the call of the kernel.

        Identical calls share a hunk. See `compare` for what changed between two reports.
        """
        from .diff import render_diff

        return render_diff(self)

    def to_json(self) -> str:
        """Return the report as JSON; `from_json` reads it. The graphs are not in it. See docs/report-json.md."""
        from .json import to_json

        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Return the report that `to_json` wrote.

        Raises:
            ValueError: If the text is none, saying where it is not as it should be.
        """
        from .json import from_json

        return from_json(text)

    def compare(self, other: Report) -> Comparison:
        """Return what is different in `other`: versions, targets, captures, and the calls that are new, gone or decided otherwise.

        Example:
            >>> print(Report.from_json(Path("yesterday.json").read_text()).compare(explain(model, x)))
        """
        from .compare import compare

        return compare(self, other)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report to a file and return its path: ``.html`` is a page for a browser, ``.json`` is for programs.

        Raises:
            ValueError: If the suffix is neither.

        Example:
            >>> fxkernels.explain(model, x).save("report.html")
        """
        from .saving import save_report

        return save_report(self, path)

    def _repr_html_(self) -> str:
        from .html import render_fragment

        return render_fragment(self)

    def numerics(self, model: nn.Module, /, *args: Any, **kwargs: Any) -> Numerics:
        """Return how far each kernel is from the layer whose place it takes, on the inputs of one call of the model.

        Every kernel gets what the model without kernels has there, so that errors do not add up. Neither the model nor the random numbers
        of the process are changed.

        Args:
            model: The model that was kernelized, or what `kernelize` or `torch.compile` returned; the model itself goes with the mapping in
                force.
            args: Positional arguments of the call.
            kwargs: Its keyword arguments.

        Raises:
            ValueError: If no call has a kernel.

        Example:
            >>> print(model.report.numerics(model, input_ids))
        """
        # Running models is the business of a room above this one, and imports point down.
        measure: Callable[..., Numerics] = importlib.import_module("fxkernels.culprit.side_by_side").measure
        return measure(self, model, args, kwargs)

    def __str__(self) -> str:
        from .terminal import render_text

        return render_text(self)
