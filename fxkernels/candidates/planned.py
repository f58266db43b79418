"""Calls that a tuned plan decides: its kernel if that is still the one that was measured and still passes every gate, else none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch

from ..kernels.describe import describe_inputs
from ..kernels.lowering.names import state_of
from ..mapping import Repository
from ..passes.example_values import example
from ..passes.gate import Candidate, Gate
from ..passes.layer_call import LayerCall
from ..passes.miss import Miss
from ..selection import Inner
from ..selection.tuned_plan import PlannedCalls, TunedPlan
from .asking import Answer
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
            found = self.plan.entry_for(call.key, call.site.layer_name, bool(call.site.training), describe_inputs(call))
        if isinstance(found, str):
            self.tell(found)
        return found

    def answers(
        self, entry: PlannedCalls | str, repositories: Iterable[Repository], ask: Callable[[Repository], Answer]
    ) -> tuple[Answer, ...]:
        """Return what comes of the candidates; only the plan's own is asked anything.

        Args:
            entry: What the plan says of the call.
            repositories: The candidates, in the order of preference.
            ask: Asks one of them.
        """
        repositories = tuple(repositories)
        if isinstance(entry, str) or entry.kernel is None:
            reason = entry if isinstance(entry, str) else f"{self.plan.source} leaves it to the compiler: {entry.why}"
            return tuple([_turned_away(repository, reason) for repository in repositories])
        wanted = next((repository for repository in repositories if name_of(repository) == entry.kernel), None)
        if wanted is None:
            reason = f"{self.plan.source} has {entry.kernel} for it, which the mapping does not offer"
            self.tell(f"{reason} for {entry.layer_name}")
            return tuple([_turned_away(repository, reason) for repository in repositories])
        others = [_turned_away(each, f"{self.plan.source} has {entry.kernel} for it") for each in repositories if each is not wanted]
        held = self._held_to(entry, ask(wanted))
        # The one that is taken stands last, and the one that tells why none is, first.
        return (held, *others) if held.outcome == "failed" else (*others, held)

    def _held_to(self, entry: PlannedCalls, answer: Answer) -> Answer:
        if answer.outcome == "failed" or answer.kernel is None:
            self.tell(f"{self.plan.source} has {entry.kernel} for {entry.layer_name}, which was turned away: {answer.candidate.miss}")
            return answer
        candidate, state = answer.candidate, state_of(answer.kernel)
        if state == entry.state:
            gate = Gate("profit", note=f"{self.plan.source}: {entry.why}")
        else:
            was, now = str(entry.state)[:12], state[:12]
            reason = f"{self.plan.source} was measured with {entry.kernel} at {was}, here it is at {now}: tune again"
            self.tell(reason)
            gate = _failed(reason)
        return replace(answer, candidate=replace(candidate, gates=(*candidate.gates, gate)))


def _turned_away(repository: Repository, reason: str) -> Answer:
    return Answer(Candidate(name_of(repository), (_failed(reason),)))


def _failed(reason: str) -> Gate:
    return Gate("profit", "failed", Miss("not_profitable", "{reason}", {"reason": reason}))
