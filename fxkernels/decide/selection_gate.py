"""The last gate: of the kernels that fit a call, which one is worth it, or is the compiler's own code the fastest?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import filterfalse

import torch
from torch import fx

from ..kernels.lowering.names import digest, is_stable, state_of, text_of_state, text_of_value
from ..kernels.samples import TensorSpec, hints_of, specs_of
from ..options import Options
from ..passes.example_values import example
from ..passes.gate import GateResult
from ..passes.layer_call import LayerCall
from ..passes.miss import Miss
from ..passes.neighbourhood import Neighbourhood
from ..passes.plan import Replacement
from ..selection import Budget, Contest, Results, known, measure
from ..selection.results import SELECTION
from .candidate_gates import Candidate

_INSIDE = "the kernels of the calls inside it"
_UNKNOWN = SELECTION.unknown("there is no record of its time; nothing is run to explain")


@dataclass(frozen=True, eq=False)
class Selection:
    """The kernels that fit one form of call, in one kind of neighbourhood.

    Args:
        candidates: All candidates for it, in the order of preference, those that were turned away among them.
        around: The neighbourhood of the first call of this form.
        owner: The module whose graph it is in.
        replacement_of: From a candidate that passed, and a call, to what would take the place of the call's region.
        autocast: The dtype to which autocast is set there; None if it is off.
        inner: For calls inside this one, the candidates that they would get; together they are one more contestant.
    """

    candidates: Sequence[Candidate]
    around: Neighbourhood
    owner: fx.GraphModule
    replacement_of: Callable[[Candidate, LayerCall], Replacement]
    autocast: torch.dtype | None
    inner: Mapping[LayerCall, Candidate] = field(default_factory=dict)

    def results(self, options: Options, budget: Budget) -> dict[Candidate, GateResult]:
        """Return the gate's answer for each candidate that was not turned away before."""
        fitting = [candidate for candidate in self.candidates if candidate.outcome == "passed"]
        contest = self._contest(fitting, options) if fitting else None
        found = self._found(contest, options, budget)
        how = contest.how(found) if isinstance(contest, Contest) and isinstance(found, Results) else ""
        left = [candidate for candidate in self.candidates if candidate.outcome != "failed"]
        return {each: self._result(each, found, how) if each in fitting else _UNKNOWN for each in left}

    def _found(self, contest: Contest | str | None, options: Options, budget: Budget) -> Results | str | None:
        """The times, a phrase that says why there are none, or None where nothing is known and nothing may be run."""
        if not isinstance(contest, Contest):
            return contest
        return measure(contest, budget) if options.edit else known(contest, budget)

    def _result(self, candidate: Candidate, found: Results | str | None, how: str) -> GateResult:
        kernel, name = str(candidate.loaded.identity), _name(candidate)
        if found is None:
            return _UNKNOWN
        if isinstance(found, str):
            return SELECTION.failed(Miss("not_profitable", "{kernel} was not timed: {reason}", {"kernel": kernel, "reason": found}))
        if name in found.failed:
            return SELECTION.failed(Miss("crash", "{kernel} cannot be timed: {reason}", {"kernel": kernel, "reason": found.failed[name]}))
        told, winner = f"{found.told(name)} ({how})", found.winner
        if name == winner:
            return SELECTION.passed(told)
        times = {"original_us": found.original.microseconds, "kernel_us": found.kernels[name].microseconds}
        faster = f"; {winner.rpartition(' ')[0]} {'are' if winner.startswith(_INSIDE) else 'is'} faster" if winner is not None else ""
        said = {"kernel": kernel, "told": told, "faster": faster}
        return SELECTION.failed(Miss("not_profitable", "{kernel} takes {told}{faster}", {**said, **times}))

    @property
    def _gradient(self) -> bool:
        return torch.is_grad_enabled() and any(getattr(example(node), "requires_grad", False) for node in self.around.outputs)

    def _contest(self, fitting: Sequence[Candidate], options: Options) -> Contest | str:
        around, owner = self.around, self.owner
        values = tuple(map(example, around.inputs))
        sizes = hints_of(values)
        if sizes is None:
            return "a size of its inputs is known only when it runs"
        of_layer = frozenset(around.call.tensors.values())
        places = frozenset(position for position, node in enumerate(around.inputs) if node in of_layer)
        inputs = specs_of(values, sizes, places, self._gradient)

        def with_kernels(candidates: Mapping[LayerCall, Candidate]) -> Callable[[], fx.GraphModule]:
            return lambda: around.graph(owner, {call: self.replacement_of(each, call) for call, each in candidates.items()})

        kernels = {_name(each): with_kernels({around.call: each}) for each in fitting}
        names = {_name(each): str(each.loaded.identity) for each in fitting}
        if self.inner:
            together = f"{_INSIDE} {digest(*map(_name, self.inner.values()))}"
            kernels[together], names[together] = with_kernels(self.inner), _INSIDE
        return Contest(
            original=lambda: around.graph(owner),
            kernels=kernels,
            inputs=inputs,
            gradient=self._gradient,
            device=next(torch.device(value.device) for value in inputs if isinstance(value, TensorSpec)),
            inner=options.compiler,
            autocast=self.autocast,
            path=around.call.site.path,
            around=len(around.before) + len(around.after),
            names=names,
        )


def _name(candidate: Candidate) -> str:
    """What tells a kernel, and how it is called, from all others: its identity for people, and a hash of the rest."""
    kernel, binding, chosen = candidate.loaded, candidate.binding, candidate.chosen
    assert chosen is not None
    lowering = chosen.lowering.name if chosen.lowering is not None else ""
    called = text_of_value((binding.args, binding.kwargs, binding.tensors)), text_of_state(binding.state), str(binding.training)
    parts = (state_of(kernel), str(kernel.identity.variant), lowering, repr(chosen.repairs), *called)
    # What has no stable text stays in the name, so that the contest has no key.
    return f"{kernel.identity} {digest(*parts) if all(map(is_stable, parts)) else next(filterfalse(is_stable, parts))}"
