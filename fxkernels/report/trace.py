"""The report where torch keeps its own: in the log that TORCH_LOGS turns on, and in the trace that tlparse shows."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from .fold import fold_calls, folded_message
from .model import Report
from .outcome import outcome_of, reason_of
from .terminal import render_text

_log = logging.getLogger("fxkernels")
_WIDTH = 120


def trace(report: Report) -> None:
    """Log at DEBUG what became of each call and why (``TORCH_LOGS="+fxkernels"``), and hand the report to TORCH_TRACE.

    Calls that are decided alike share a line. Where nobody listens, nothing is computed.
    """
    if _log.isEnabledFor(logging.DEBUG):
        for line in reason_lines(report):
            _log.debug("%s", line)
    if report.capture != "dynamo" or report.pending:
        return  # the trace is that of compilations
    from ..capture._torch.structured_trace import trace_artifact

    trace_artifact("fxkernels_report", "string", lambda: render_text(report, _WIDTH))
    trace_artifact("fxkernels_report_data", "json", report.to_json)


def reason_lines(report: Report) -> Iterator[str]:
    """Yield for each fold of calls what became of it, and each reason for which a kernel was passed over."""
    for fold in [inner for outer in fold_calls(report.calls) for inner in (outer, *outer.covered)]:
        decisions = [call.decisions[-1] for call in fold.calls]
        yield f"{fold.name} ({fold.calls[0].layer_name}): {outcome_of(decisions, folded_message)}"
        told = 0 if decisions[0].status in ("rewritten", "unknown") else 1
        for number in range(told, len(decisions[0].misses)):
            yield f"{fold.name}: passed over: {reason_of([decision.misses[number] for decision in decisions], folded_message)}"
