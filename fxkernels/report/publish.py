"""Where a new report goes: it becomes the thread's last one, and is logged where torch keeps its own logs.

``TORCH_LOGS`` turns the log on, and ``TORCH_TRACE`` writes the trace that tlparse shows.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

from ..capture import _torch
from .fold import fold_calls, folded_message, outcome_of, reason_of
from .report import Report
from .terminal import render_text

_thread = threading.local()
_log = logging.getLogger("fxkernels")
_WIDTH = 120


def last_report() -> Report | None:
    """Return the report of the calling thread's last capture, or None if there was none. It keeps no model alive."""
    return getattr(_thread, "report", None)


def remember(report: Report) -> None:
    """Make a report the calling thread's last one."""
    _thread.report = report


def publish(report: Report) -> None:
    """Make a report the calling thread's last one, and log its summary: a warning if kernels were requested and none runs."""
    remember(report)
    # Calls that the user has excluded are no surprise, and neither are those for which the compiler's own code was faster.
    left_out = bool(report.calls) and report.counts["excluded"] == len(report.calls)
    compared = any(call.miss is not None and call.miss.code == "not_profitable" for call in report.calls)
    expected = report.rewritten or report.counts["unknown"] or left_out or compared
    _log.log(logging.INFO if expected else logging.WARNING, "%s", report.summary)
    trace(report)


def trace(report: Report) -> None:
    """Log at DEBUG what was decided about each call and why (``TORCH_LOGS="+fxkernels"``), and hand the report to TORCH_TRACE.

    Calls that are decided alike share a line. Nothing is computed where neither is on.
    """
    if _log.isEnabledFor(logging.DEBUG):
        for line in reason_lines(report):
            _log.debug("%s", line)
    if report.capture != "dynamo" or report.pending:
        return  # the trace is that of compilations
    _torch.trace_artifact("fxkernels_report", "string", lambda: render_text(report, _WIDTH))
    _torch.trace_artifact("fxkernels_report_data", "json", report.to_json)


def reason_lines(report: Report) -> Iterator[str]:
    """Yield for each fold of calls what was decided, and each reason for which a kernel was passed over."""
    for fold in [inner for outer in fold_calls(report.calls) for inner in (outer, *outer.covered)]:
        decisions = [call.decisions[-1] for call in fold.calls]
        yield f"{fold.name} ({fold.calls[0].layer_name}): {outcome_of(decisions, folded_message)}"
        shown = 0 if decisions[0].status in ("rewritten", "unknown") else 1
        for number in range(shown, len(decisions[0].misses)):
            yield f"{fold.name}: passed over: {reason_of([decision.misses[number] for decision in decisions], folded_message)}"
