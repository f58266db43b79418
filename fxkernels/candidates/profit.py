"""The last gate: of the kernels that fit a call, which one is worth it, or is the compiler's own code the fastest?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import filterfalse

import torch
from torch import fx

from ..kernels.lowering.names import digest, is_stable, state_of, text_of_state, text_of_value
from ..kernels.samples import TensorSpec, hints_of, specs_of
from ..passes.example_values import example
from ..passes.gate import Gate
from ..passes.miss import Miss
from ..passes.neighbourhood import Neighbourhood
from ..passes.plan import Replacement
from ..selection import Budget, Contest, Results, known, measure
from .asking import Answer
from .request import Request

_UNKNOWN = Gate("profit", "unknown", note="there is no record of its time; nothing is run to explain")


@dataclass(frozen=True, eq=False)
class Weighing:
    """The kernels that fit one form of call, in one kind of neighbourhood.

    Args:
        answers: What came of the candidates, in the order of preference.
        around: The neighbourhood of the first call of this form.
        owner: The module whose graph it stands in.
        replacement_of: From an answer that passed to what would take the region's place.
        autocast: The dtype to which autocast is set there; None if it is off.
    """

    answers: Sequence[Answer]
    around: Neighbourhood
    owner: fx.GraphModule
    replacement_of: Callable[[Answer], Replacement]
    autocast: torch.dtype | None

    def weighed(self, request: Request, budget: Budget) -> tuple[Answer, ...]:
        """Return the answers with the gate of their profit, that of the kernel which is taken last."""
        fitting = [answer for answer in self.answers if answer.outcome == "passed"]
        contest = self._contest(fitting, request) if fitting else None
        found = self._found(contest, request, budget)
        how = contest.how(found) if isinstance(contest, Contest) and isinstance(found, Results) else ""
        by_answer = {id(answer): _name(answer) for answer in fitting}
        weighed = [self._judged(answer, by_answer.get(id(answer)), found, how) for answer in self.answers]
        # Of several of which nobody knows, the one that the mapping prefers stands last, where reports look for the one that is taken.
        failed = [answer for answer in weighed if answer.outcome == "failed"]
        return (*failed, *reversed([answer for answer in weighed if answer.outcome != "failed"]))

    def _found(self, contest: Contest | str | None, request: Request, budget: Budget) -> Results | str | None:
        """The times, a phrase that says why there are none, or None where nothing is known and nothing may be run."""
        if not isinstance(contest, Contest):
            return contest
        return measure(contest, budget) if request.runs else known(contest, budget)

    def _judged(self, answer: Answer, name: str | None, found: Results | str | None, how: str) -> Answer:
        if answer.outcome == "failed":
            return answer
        candidate = answer.candidate
        gate = self._gate(str(candidate.kernel), name, found, how) if name is not None else _UNKNOWN
        return replace(answer, candidate=replace(candidate, gates=(*candidate.gates, gate)))

    def _gate(self, kernel: str, name: str, found: Results | str | None, how: str) -> Gate:
        if found is None:
            return _UNKNOWN
        if isinstance(found, str):
            return Gate("profit", "failed", Miss("not_profitable", "{kernel} was not timed: {reason}", {"kernel": kernel, "reason": found}))
        if name in found.failed:
            data = {"kernel": kernel, "reason": found.failed[name]}
            return Gate("profit", "failed", Miss("crash", "{kernel} cannot be timed: {reason}", data))
        told, winner = f"{found.told(name)} ({how})", found.winner
        if name == winner:
            return Gate("profit", note=told)
        times = {"original_us": found.original.microseconds, "kernel_us": found.kernels[name].microseconds}
        faster = f"; {winner.rpartition(' ')[0]} is faster" if winner is not None else ""
        said = {"kernel": kernel, "told": told, "faster": faster}
        return Gate("profit", "failed", Miss("not_profitable", "{kernel} takes {told}{faster}", {**said, **times}))

    @property
    def _gradient(self) -> bool:
        return torch.is_grad_enabled() and any(getattr(example(node), "requires_grad", False) for node in self.around.outputs)

    def _contest(self, fitting: Sequence[Answer], request: Request) -> Contest | str:
        around, owner = self.around, self.owner
        values = tuple(map(example, around.inputs))
        sizes = hints_of(values)
        if sizes is None:
            return "a size of its inputs is known only when it runs"
        of_layer = frozenset(around.call.tensors.values())
        places = frozenset(position for position, node in enumerate(around.inputs) if node in of_layer)
        inputs = specs_of(values, sizes, places, self._gradient)

        def with_kernel(answer: Answer) -> Callable[[], fx.GraphModule]:
            return lambda: around.graph(owner, self.replacement_of(answer))

        return Contest(
            original=lambda: around.graph(owner),
            kernels={_name(answer): with_kernel(answer) for answer in fitting},
            inputs=inputs,
            gradient=self._gradient,
            device=next(torch.device(value.device) for value in inputs if isinstance(value, TensorSpec)),
            inner=request.inner,
            autocast=self.autocast,
            path=around.call.site.path,
            around=len(around.before) + len(around.after),
            names={_name(answer): str(answer.candidate.kernel) for answer in fitting},
        )


def _name(answer: Answer) -> str:
    """What tells a kernel, and how it is called, from all others: its identity for people, and a hash of the rest."""
    kernel, bound, chosen = answer.kernel, answer.bound, answer.chosen
    assert kernel is not None
    assert bound is not None
    assert chosen is not None
    lowering = chosen.lowering.name if chosen.lowering is not None else ""
    called = text_of_value((bound.args, bound.kwargs, bound.tensors)), text_of_state(bound.state), str(bound.training)
    copies = str((sorted(chosen.written), sorted(chosen.orders.items())))
    parts = (state_of(kernel), str(kernel.identity.variant), lowering, str(chosen.recompute), copies, *called)
    # What has no stable text stays in the name, so that the contest has no key.
    return f"{kernel.identity} {digest(*parts) if all(map(is_stable, parts)) else next(filterfalse(is_stable, parts))}"
