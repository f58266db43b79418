"""Calls that a tuned plan decides: its kernel if that is still the one that was measured and still passes every gate, else none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ..kernels.call_form import key_in_plans
from ..kernels.describe import describe_inputs
from ..kernels.lowering.names import state_of
from ..passes.example_values import example
from ..passes.gate import GateResult
from ..passes.layer_call import LayerCall
from ..passes.miss import Miss
from ..selection import Inner
from ..selection.results import SELECTION
from ..selection.tuned_plan import PlannedCalls, TunedPlan
from .candidate_gates import Candidate
from .repositories import name_of


@dataclass
class Planned:
    """A tuned plan, as it is carried out for the calls of one graph.

    Args:
        plan: The plan.
        inner: The inner compiler.
        tell: Called with a sentence for whatever of the plan no longer fits.
    """

    plan: TunedPlan
    inner: Inner
    tell: Callable[[str], None]
    _misfits: dict[torch.device, str] = field(default_factory=dict)

    def entry(self, call: LayerCall) -> PlannedCalls | str:
        """Return what the plan says of a call, or the sentence that says why it says nothing."""
        device = next((value.device for value in map(example, call.marked_inputs) if isinstance(value, torch.Tensor)), None)
        if device is None:
            return "the call has no tensor that tells its device"
        if device not in self._misfits:
            self._misfits[device] = self.plan.misfit(device, self.inner)
        found: PlannedCalls | str = self._misfits[device]
        if not found:
            found = self.plan.entry_for(call.key, key_in_plans(call)) or self._unknown(call)
        if isinstance(found, str):
            self.tell(found)
        return found

    def _unknown(self, call: LayerCall) -> str:
        return self.plan.unknown(call.key, call.site.layer_name, bool(call.site.training), describe_inputs(call))

    def ask(self, entry: PlannedCalls | str, candidates: Sequence[Candidate], ask: Callable[[Candidate], None]) -> list[Candidate]:
        """Have the plan's own candidate asked its gates, and turn the others away. Return all, the one that is taken last.

        Args:
            entry: What the plan says of the call.
            candidates: The candidates, in the order of preference.
            ask: Asks one of them.
        """
        if isinstance(entry, str) or entry.kernel is None:
            reason = entry if isinstance(entry, str) else f"{self.plan.source} leaves it to the compiler: {entry.why}"
            return _turned_away(candidates, reason)
        wanted = next((each for each in candidates if name_of(each.repository) == entry.kernel), None)
        if wanted is None:
            reason = f"{self.plan.source} has {entry.kernel} for it, which the mapping does not offer"
            self.tell(f"{reason} for {entry.layer_name}")
            return _turned_away(candidates, reason)
        others = _turned_away([each for each in candidates if each is not wanted], f"{self.plan.source} has {entry.kernel} for it")
        ask(wanted)
        self._hold_to(entry, wanted)
        # The one that is taken stands last, and the one that tells why none is, first.
        return [wanted, *others] if wanted.outcome == "failed" else [*others, wanted]

    def _hold_to(self, entry: PlannedCalls, candidate: Candidate) -> None:
        if candidate.outcome == "failed" or candidate.kernel is None:
            self.tell(f"{self.plan.source} has {entry.kernel} for {entry.layer_name}, which was turned away: {candidate.result.miss}")
            return
        state = state_of(candidate.kernel)
        if state == entry.state:
            candidate.gates.append(SELECTION.passed(f"{self.plan.source}: {entry.why}"))
            return
        was, now = str(entry.state)[:12], state[:12]
        reason = f"{self.plan.source} was measured with {entry.kernel} at {was}, here it is at {now}: tune again"
        self.tell(reason)
        candidate.gates.append(_failed(reason))


def _turned_away(candidates: Sequence[Candidate], reason: str) -> list[Candidate]:
    for candidate in candidates:
        candidate.gates.append(_failed(reason))
    return [*candidates]


def _failed(reason: str) -> GateResult:
    return SELECTION.failed(Miss("not_profitable", "{reason}", {"reason": reason}))
