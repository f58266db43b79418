"""Decides layer calls: asks each its gates, then its candidates theirs, in order; the first candidate that passes all is taken."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import fx

from ..admission import Admitted
from ..kernels.binding import Binding
from ..kernels.call import KernelCall
from ..kernels.call_form import CallForm, metadata, values_of
from ..kernels.describe import Description, describe
from ..kernels.layer import KernelLayer
from ..kernels.lowering.autocast import current_dtype, dtype_at, has_regions
from ..kernels.lowering.kernel_case import KernelCase
from ..kernels.lowering.lowering import Lowering
from ..kernels.lowering.names import digest
from ..kernels.lowering.opaque import without_metadata
from ..kernels.lowering.repairs import Repairs
from ..options import Options
from ..passes.alias import Memory
from ..passes.example_values import example
from ..passes.gate import Gate, GateResult
from ..passes.layer_call import LayerCall
from ..passes.miss import Miss
from ..passes.neighbourhood import Neighbours
from ..passes.plan import Decision, Replacement, Status
from ..passes.reference import reference_of
from ..passes.region import REGION, external_inputs
from .call_gates import FILTER, CallInQuestion, Question, device_of
from .candidate_gates import Candidate
from .decision_cache import DecisionCache
from .gates import ASKED_OF_A_CALL, ASKED_OF_A_CANDIDATE, ASKED_OF_A_FORM
from .planned import Planned
from .selection_gate import Selection


@dataclass(frozen=True, slots=True)
class KernelUse:
    """The kernel that is taken for a call, and how it is used.

    Args:
        kernel: The kernel layer.
        lowering: How it enters a compiled graph; None where its Python runs as it is.
        admitted: How it was admitted.
    """

    kernel: KernelLayer
    lowering: Lowering | None
    admitted: Admitted | None


class _OfForm:
    """What all calls of one form come to.

    Args:
        key: The form, and what a tuned plan says of it.
        gates: What the gates of the form have answered.
        candidates: The candidates that were asked; the last one that was not turned away is taken.
        reference: The region as a module.
    """

    def __init__(
        self,
        key: Hashable,
        gates: tuple[GateResult, ...],
        candidates: Sequence[Candidate] = (),
        reference: fx.GraphModule | None = None,
    ) -> None:
        self.key, self.gates, self.candidates, self.reference = key, gates, candidates, reference
        self.results = tuple([candidate.result for candidate in candidates])
        self.misses = tuple([miss for answers in (gates, self.results) for answer in answers if (miss := answer.miss) is not None])
        left = [candidate for candidate, result in zip(candidates, self.results, strict=True) if result.outcome != "failed"]
        self.taken = left[-1] if left else None
        self._descriptions: dict[tuple[int, ...] | None, Description] = {}

    def description(self, call: LayerCall, copied: tuple[int, ...] | None = None) -> Description:
        """A call in words: with that of the kernel, if `copied` says which inputs are copied first."""
        if copied not in self._descriptions:
            taken = self.taken if copied is not None else None
            kernel = taken.kernel if taken is not None else None
            described = describe(call, kernel.identity, taken.binding, copied or ()) if kernel and taken else describe(call)
            self._descriptions[copied] = described
        return self._descriptions[copied]


@dataclass
class Decider:
    """Decides the layer calls of one captured graph. Calls of one form are decided once: the thirty-second norm costs little.

    Args:
        cache: What is known of kernels.
        options: What is asked for, with the mapping that is in force.
        calls: All layer calls of the graph and of those nested in it.
    """

    cache: DecisionCache
    options: Options
    calls: tuple[LayerCall, ...]
    _only_computes: dict[Hashable, bool] = field(default_factory=dict)
    _forms: dict[Hashable, _OfForm] = field(default_factory=dict)
    _memories: dict[fx.Graph, Memory] = field(default_factory=dict)
    _sets_autocast: dict[fx.Graph, bool] = field(default_factory=dict)
    _irreplaceable: dict[Hashable, Description] = field(default_factory=dict)
    _neighbours: dict[fx.Graph, Neighbours] = field(default_factory=dict)
    _planned: Planned | None = field(init=False)

    def __post_init__(self) -> None:
        plan = self.options.plan
        self._planned = Planned(plan, self.options.compiler, self.cache.misfit) if plan is not None else None

    def decide(self, call: LayerCall, conflict: Miss | None = None) -> Decision:
        """Return the decision for one call, by itself.

        Args:
            call: The call.
            conflict: Why its region cannot be replaced beside the calls that are rewritten already, if it cannot.
        """
        this = CallInQuestion(call, self.options, self.cache, self._only_computes, conflict)
        gates = _answers(ASKED_OF_A_CALL, this)
        if (miss := gates[-1].miss) is not None:
            status: Status = "excluded" if gates[-1].name == FILTER.name else "missed"
            description = self._description(this) if gates[-1].name == REGION.name else None
            return Decision(status, (miss,), gates=gates, description=description)
        found = self._of_form(this)
        if found.taken is not None and self.options.measures(device_of(call)):
            found = self._select(found, call)
        return self._decision(found, call, gates)

    # --- what all calls of a form come to ----------------------------------------------------------------------------------------------

    def _of_form(self, this: CallInQuestion) -> _OfForm:
        """What all calls of a call's form come to, without their neighbours."""
        call = this.call
        if not call.site.arguments_known:  # since nothing is mapped to its name
            return _OfForm(call.site.layer_name, _answers(ASKED_OF_A_FORM, this))
        form = CallForm.of(call, this.structure, self._autocast_at(call))
        key = (form, self._planned.entry(call) if self._planned is not None else None)
        if key not in self._forms:
            self._forms[key] = self._decide_form(this, form, key)
        return self._forms[key]

    def _decide_form(self, this: CallInQuestion, form: CallForm, key: Hashable) -> _OfForm:
        """Ask the gates of a form, then candidates theirs until one passes."""
        gates = _answers(ASKED_OF_A_FORM, this)
        if this.target is None or gates[-1].outcome == "failed":
            return _OfForm(key, gates)
        call, cache, target, options = this.call, self.cache, this.target, self.options
        reference = reference_of(call, call.module)

        def case_of(kernel: KernelLayer, binding: Binding) -> KernelCase:
            return _case(kernel, binding, call, reference, form.autocast)

        candidates = [Candidate(entry.repository, call, form, target, options, cache, case_of) for entry in this.entries]
        if self._planned is not None:
            return _OfForm(key, gates, self._planned.ask(self._planned.entry(call), candidates, _ask), reference)
        for number, candidate in enumerate(candidates, 1):
            _ask(candidate)
            if candidate.outcome != "failed" and not options.measures(device_of(call)):
                return _OfForm(key, gates, candidates[:number], reference)
        return _OfForm(key, gates, candidates, reference)

    def _select(self, found: _OfForm, call: LayerCall) -> _OfForm:
        """The same for calls that also have neighbours of one form: of the candidates that fit, the one that is worth it is taken."""
        if call.graph not in self._neighbours:
            self._neighbours[call.graph] = Neighbours(call.graph)
        around = self._neighbours[call.graph].of(call)
        inside = {each: of_form for each in self.calls if each.parent is call and (of_form := self._may_be_rewritten(each)) is not None}
        values = tuple([metadata(example(node)) for node in around.inputs])
        key = (found.key, around.structure, values, tuple([of_form.key for of_form in inside.values()]))
        if key not in self._forms:
            of_forms = {call: found, **inside}
            passed = {each: [one for one in of_form.candidates if one.outcome == "passed"] for each, of_form in inside.items()}
            inner = {each: candidates[0] for each, candidates in passed.items() if candidates}

            def replacement_of(candidate: Candidate, of: LayerCall) -> Replacement:
                target = self._kernel_call(candidate, of_forms[of].reference, of, self._copied(candidate, of))
                return Replacement(target, external_inputs(of))

            selection = Selection(found.candidates, around, call.module, replacement_of, self._autocast_at(call), inner)
            results = selection.results(self.options, self.cache.budget)
            weighed = [replace(each, gates=[*each.gates, *filter(None, [results.get(each)])]) for each in found.candidates]
            # Of several of which the times are not known, the one that the mapping prefers is last, where the one that is taken is.
            failed = [each for each in weighed if each.outcome == "failed"]
            order = [*failed, *reversed([each for each in weighed if each.outcome != "failed"])]
            self._forms[key] = _OfForm(key, found.gates, order, found.reference)
        return self._forms[key]

    def _may_be_rewritten(self, call: LayerCall) -> _OfForm | None:
        """What all calls of a call's form come to; None if a gate of the call itself fails."""
        this = CallInQuestion(call, self.options, self.cache, self._only_computes)
        return self._of_form(this) if _answers(ASKED_OF_A_CALL, this)[-1].outcome == "passed" else None

    # --- one call ----------------------------------------------------------------------------------------------------------------------

    def _decision(self, found: _OfForm, call: LayerCall, gates: tuple[GateResult, ...]) -> Decision:
        gates, taken = (*gates, *found.gates), found.taken
        if taken is None:
            description = found.description(call) if call.site.arguments_known else None
            return Decision("missed", found.misses, None, gates, found.results, description=description)
        copied = self._copied(taken, call)
        use = KernelUse(taken.kernel, _lowering(taken, copied), taken.admitted) if taken.kernel is not None else None
        if taken.outcome == "unknown":
            return Decision("unknown", found.misses, None, gates, found.results, use, found.description(call, copied))
        if (miss := self.cache.fuel.allows(call.key)) is not None:
            return Decision("excluded", (miss,), gates=(FILTER.failed(miss),), description=found.description(call))
        if taken.chosen is not None and taken.chosen.opaque is not None:
            taken.chosen.opaque.used_at(call.key)
        replacement = Replacement(self._kernel_call(taken, found.reference, call, copied), external_inputs(call))
        return Decision("rewritten", found.misses, replacement, gates, found.results, use, found.description(call, copied))

    def _copied(self, candidate: Candidate, call: LayerCall) -> tuple[int, ...]:
        """Positions of the inputs of which the call makes a copy first, as the kernel overwrites them and that would be noticed."""
        chosen = candidate.chosen
        if chosen is None or chosen.opaque is not None or not chosen.repairs.copied_inputs:
            return ()  # operators make their copies themselves
        inputs = external_inputs(call)
        return tuple([position for position in chosen.repairs.copied_inputs if self._is_seen(inputs[position], call)])

    def _kernel_call(self, candidate: Candidate, reference: fx.GraphModule | None, call: LayerCall, copied: tuple[int, ...]) -> KernelCall:
        """What takes the place of a call in the graph."""
        chosen = candidate.chosen
        assert chosen is not None
        assert reference is not None
        differentiable = any(getattr(example(node), "requires_grad", False) for node in call.outputs)
        repairs = Repairs(recompute=chosen.repairs.recompute) if chosen.opaque else replace(chosen.repairs, copied_inputs=copied)
        target = candidate.binding.kernel_call(
            *(candidate.loaded, call.key, reference, len(call.outputs), differentiable),
            repairs=repairs,
            operators=chosen.opaque,
            launches=chosen.lowering is not None and chosen.lowering.name == "triton",
        )
        if chosen.opaque is not None:
            target.cache_key = digest(call.key, chosen.opaque.key, repr((target.recomputes, differentiable)))
        return target

    def _is_seen(self, value: fx.Node, call: LayerCall) -> bool:
        """Whether it would be noticed that the kernel overwrites the value."""
        if call.graph not in self._memories:
            self._memories[call.graph] = Memory(call.graph, [each for each in self.calls if each.graph is call.graph])
        return self._memories[call.graph].witness(value, call) is not None

    def _autocast_at(self, call: LayerCall) -> torch.dtype | None:
        if not call.region:
            return None
        device = device_of(call)
        if call.graph not in self._sets_autocast:
            self._sets_autocast[call.graph] = has_regions(call.graph)
        return dtype_at(call.first, device) if self._sets_autocast[call.graph] else current_dtype(device)

    def _description(self, this: CallInQuestion) -> Description | None:
        if not this.call.complete:
            return None
        key = (this.structure, values_of(this.call))
        if key not in self._irreplaceable:
            self._irreplaceable[key] = describe(this.call)
        return self._irreplaceable[key]


def _answers(questions: Iterable[tuple[Gate, Question]], this: CallInQuestion) -> tuple[GateResult, ...]:
    """The answers of a call's gates, up to the first that fails."""
    answers: list[GateResult] = []
    for _, ask in questions:
        if (answer := ask(this)) is not None:
            answers.append(answer)
            if answer.outcome == "failed":
                break
    return tuple(answers)


def _ask(candidate: Candidate) -> None:
    """Ask a candidate its gates, up to the first that fails. What is not loaded cannot be asked more."""
    for _, ask in ASKED_OF_A_CANDIDATE:
        candidate.gates.append(ask(candidate))
        if candidate.gates[-1].outcome == "failed" or candidate.kernel is None:
            return
    if candidate.outcome == "passed":
        candidate.enforce(*candidate.pending)


def _lowering(candidate: Candidate, copied: tuple[int, ...]) -> Lowering | None:
    """How the kernel enters the graph, with the copies that are made in this call."""
    chosen = candidate.chosen
    if chosen is None or chosen.lowering is None or chosen.opaque is not None or chosen.repairs.copied_inputs == copied:
        return chosen.lowering if chosen is not None else None
    return replace(chosen.lowering, repairs=replace(chosen.repairs, copied_inputs=copied))


def _case(kernel: KernelLayer, binding: Binding, call: LayerCall, reference: fx.GraphModule, autocast: torch.dtype | None) -> KernelCase:
    nodes = external_inputs(call)
    places = {node: position for position, node in enumerate(nodes)}
    passed = {position: places[node] for position, node in enumerate(call.outputs) if node not in call.inside}
    inputs, outputs = tuple(map(example, nodes)), tuple(map(example, call.outputs))
    return KernelCase(
        kernel, binding, call.key, inputs, outputs, passed, without_metadata(reference), torch.device(device_of(call)), autocast
    )
