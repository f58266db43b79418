"""Why one layer call runs the kernel that it runs, or none: the whole chain of gates, the nearest candidate, and what would help."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..passes.gate import CANDIDATE_GATES, Candidate
from ..passes.miss import Miss
from ..passes.plan import Status
from .changes import change_for
from .fold import Fold, differing_decisions, fold_calls
from .model import CallReport, GraphDecision, Report

_NUMBER = re.compile(r"(?<![^.])[0-9]+(?![^.])")
_LISTED = 8


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
    nearest: Candidate | None = None
    change: str = ""


@dataclass(frozen=True, slots=True)
class Why:
    """Why a call, or the calls of one path, run the kernel that they run, or none. ``str()`` of it is the explanation.

    Args:
        name: What was asked for.
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
    def nearest(self) -> Candidate | None:
        """Of the candidates that were turned away, the one that passed the most gates."""
        return self.explanations[0].nearest

    @property
    def change(self) -> str:
        """The smallest change after which it would match, as a phrase such as ``with weight in bfloat16``; empty if there is none."""
        return self.explanations[0].change

    def __str__(self) -> str:
        from .why_text import render_why

        return render_why(self)


def why(report: Report, name: str) -> Why:
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
    return Explanation(call, decision, nearest, change_for(miss, call))


def _nearest(candidates: Sequence[Candidate]) -> Candidate | None:
    """The failed candidate whose failing gate comes last; of several, the one that the mapping prefers."""
    failed = [candidate for candidate in candidates if candidate.outcome == "failed"]
    return max(failed, key=lambda candidate: CANDIDATE_GATES.index(candidate.gates[-1].name), default=None)


def _alike(report: Report, calls: Sequence[CallReport]) -> tuple[Fold, ...]:
    if calls[0].status not in ("missed", "excluded", "not_captured"):
        return ()
    template = _NUMBER.sub("*", calls[0].path)
    others = [call for call in report.calls if call.status in ("rewritten", "unknown") and _NUMBER.sub("*", call.path) == template]
    return fold_calls([call for call in others if call not in calls])


# --- names ------------------------------------------------------------------------------------------------------------------------------


def _named(report: Report, name: str) -> list[CallReport]:
    """The calls that a name stands for; for a folded label the first one, for whom the others are like it."""
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


def _no_such_call(report: Report, name: str) -> str:
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
