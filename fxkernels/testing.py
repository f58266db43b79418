"""Assertions for the tests of a project that uses kernels: which layers run one, and which do not, for what reason.

An assertion that fails shows the report. A name that the report does not have is a ValueError with the nearest one, not a failed assertion:
a test with a mistyped name would otherwise pass or fail for the wrong reason.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections import Counter
from collections.abc import Iterable, Iterator

from .decide.gates import CODES
from .report.fold import Fold, fold_alike, fold_calls, folded_message, nameless, outcome_of, repeated_paths
from .report.model import CallReport
from .report.report import Report
from .report.terminal import render_text
from .report.why import why

__all__ = ["assert_fused", "assert_missed", "assert_rewritten"]

_WIDTH = 100


def assert_rewritten(report: Report, /, *paths: str, **counts: int) -> None:
    """Raise an AssertionError unless exactly so many calls of each layer name, and all calls of each path, run a kernel.

    Args:
        report: The report, of `explain`, of a kernelized model or of a backend. What is ``unknown`` to `explain` does not count.
        paths: Module paths such as ``model.norm``, also with a call index (``model.norm#1``), with wildcards (``model.layers.*.mlp``) or
            folded as the report shows them (``layers.{0..3}.norm``).
        counts: By layer name, how many of its calls run a kernel.

    Raises:
        AssertionError: With the calls that do not, why, and the report.
        ValueError: If the report has no such path or layer name.
        TypeError: If nothing is asked.

    Example:
        >>> assert_rewritten(model.report, RMSNorm=65)
        >>> assert_rewritten(model.report, "model.layers.*.mlp")
    """
    if not (paths or counts):
        raise TypeError("assert_rewritten needs a layer name with a number, RMSNorm=65, or a path, 'model.layers.*.mlp'")
    problems: list[str] = []
    for name, expected in counts.items():
        calls = _calls_of_layer(report, name)
        found = sum(call.status == "rewritten" for call in calls)
        if found != expected:
            problems.append(f"{found} of {len(calls)} calls of {name} run a kernel, {expected} should")
            problems += _outcomes(report, calls if found > expected else _others(calls))
    for path in paths:
        if others := _others(_calls_named(report, path)):
            problems += [f"{path} does not run a kernel", *_outcomes(report, others)]
    _fail(report, problems)


def assert_fused(report: Report, /, **counts: int) -> None:
    """Raise an AssertionError unless each fusion was found in so many places, whether or not a kernel runs there.

    Args:
        report: The report of a capture in which kernels are mapped to the fusions.
        counts: By layer name of the fusion, in how many places it is.

    Raises:
        AssertionError: With the places that were found, or how far the nearest one got, and the report.
        TypeError: If nothing is asked.

    Example:
        >>> assert_fused(backend.report, AddRMSNorm=4, attention=2)
    """
    if not counts:
        raise TypeError("assert_fused needs the layer name of a fusion with a number, AddRMSNorm=4")
    problems: list[str] = []
    for name, expected in counts.items():
        calls = [call for call in report.calls if call.layer_name == name]
        if len(calls) != expected:
            problems.append(f"{name} was found in {len(calls)} places, {expected} were expected")
            problems += _outcomes(report, calls)
            problems += [f"  {note}" for note in report.notes if note.startswith(f"fusion {name} ")]
    _fail(report, problems)


def assert_missed(report: Report, /, *paths: str, code: str | None = None) -> None:
    """Raise an AssertionError unless all calls of each path keep their original layer, for the given reason.

    Args:
        report: The report.
        paths: As for `assert_rewritten`.
        code: The code of the reason, e.g. ``"dtype"``: of the first miss, which the report shows. By default any.

    Raises:
        AssertionError: With the calls that run a kernel or have another reason, and the report.
        ValueError: If the report has no such path, or there is no such code.
        TypeError: If nothing is asked.

    Example:
        >>> assert_missed(model.report, "lm_head.norm", code="dtype")
    """
    if not paths:
        raise TypeError("assert_missed needs a path, 'lm_head.norm'")
    if code is not None and code not in CODES:
        raise ValueError(f"there is no miss code {code!r}{_meant(code, CODES)} decide/gates.py lists them")
    problems: list[str] = []
    for path in paths:
        wrong = [
            call
            for call in _calls_named(report, path)
            if call.miss is None or call.status == "unknown" or code not in (None, call.miss.code)
        ]
        if wrong:
            problems += [f"{path} is not missed{f' with code {code}' if code is not None else ''}", *_outcomes(report, wrong)]
    _fail(report, problems)


def _fail(report: Report, problems: list[str]) -> None:
    if problems:
        raise AssertionError("\n".join((*problems, "", render_text(report, _WIDTH))))


def _others(calls: Iterable[CallReport]) -> list[CallReport]:
    return [call for call in calls if call.status != "rewritten"]


def _outcomes(report: Report, calls: Iterable[CallReport]) -> Iterator[str]:
    """The outcome of the calls; those that were decided alike share a line."""
    for fold in fold_alike(calls, lambda call: outcome_of([call.decisions[-1]], nameless), repeated_paths(report.calls)):
        yield f"  {fold.name}: {outcome_of([call.decisions[-1] for call in fold.calls], folded_message)}"


# --- names ------------------------------------------------------------------------------------------------------------------------------


def _calls_of_layer(report: Report, name: str) -> list[CallReport]:
    calls = [call for call in report.calls if call.layer_name == name]
    if calls:
        return calls
    if report.pending:
        raise ValueError(f"no layer named {name!r} can be found: {report.summary}")
    present = Counter(call.layer_name for call in report.calls)
    listed = ", ".join(f"{layer} x{number}" for layer, number in sorted(present.items())) or "none"
    raise ValueError(f"no layer in the report has the name {name!r}{_meant(name, present)} there are: {listed}")


def _calls_named(report: Report, name: str) -> list[CallReport]:
    found = [call for call in report.calls if name in (call.path, call.key)]
    found = found or [call for fold in _folds(report) if fold.label == name for call in fold.calls]
    found = found or [call for call in report.calls if fnmatch.fnmatchcase(call.path, name) or fnmatch.fnmatchcase(call.key, name)]
    if found:
        return found
    if any(sign in name for sign in "*?["):
        raise ValueError(f"no call in the report matches {name!r}; it has {', '.join(fold.label for fold in _folds(report)) or 'none'}")
    return [each.call for each in why(report, name).explanations]  # it refuses the name, with the nearest ones


def _folds(report: Report) -> list[Fold]:
    return [inner for outer in fold_calls(report.calls) for inner in (outer, *outer.covered)]


def _meant(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ";"
