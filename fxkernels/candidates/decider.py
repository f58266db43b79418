"""Decides layer calls: asks each of its gates, then the mapping's candidates, in order, each through theirs; the first that passes wins."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from ..kernels.bound import Bound
from ..kernels.call import KernelCall
from ..kernels.describe import Description, describe
from ..kernels.layer import KernelLayer
from ..kernels.lowering.autocast import current_dtype, dtype_at, has_regions
from ..kernels.lowering.case import Case, input_names
from ..kernels.lowering.names import digest
from ..kernels.lowering.opaque import without_metadata
from ..kernels.origin import LayerOrigin
from ..passes.alias import Memory
from ..passes.example_values import example
from ..passes.gate import Candidate, Gate
from ..passes.layer_call import LayerCall
from ..passes.miss import Miss
from ..passes.neighbourhood import Neighbourhood, Neighbours
from ..passes.plan import Decision, Replacement
from ..passes.reference import form, reference_of
from ..passes.region import external_inputs, only_computes, why_not_replaceable
from .asking import Answer, Asking, asked
from .call_gates import device_of_call, is_excluded, is_not_mapped, is_not_the_annotated_one, is_on_another_device, mode_of
from .memory import Chooser
from .planned import Planned
from .profit import Weighing
from .request import Request

_WANTED, _ANNOTATED, _REPLACEABLE = Gate("filter"), Gate("annotation"), Gate("region")


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What calls of one form come to: their gates, the candidates that were asked, and the one that is taken."""

    gates: tuple[Gate, ...]
    misses: tuple[Miss, ...]
    candidates: tuple[Candidate, ...] = ()
    taken: Answer | None = None
    reference: fx.GraphModule | None = None
    answers: tuple[Answer, ...] = ()
    descriptions: dict[tuple[int, ...] | None, Description] = field(default_factory=dict)
    """By the positions of the inputs that are copied first; None where no kernel is called."""


@dataclass
class Decider:
    """Decides the layer calls of one captured graph. Calls of the same form are decided once; so the thirty-second norm costs little.

    Args:
        chooser: What is known of kernels.
        request: What is asked for.
        calls: All layer calls of the graph and of those nested in it.
    """

    chooser: Chooser
    request: Request
    calls: tuple[LayerCall, ...]
    _only_computes: dict[Hashable, bool] = field(default_factory=dict)
    _verdicts: dict[Hashable, _Verdict] = field(default_factory=dict)
    _memories: dict[fx.Graph, Memory] = field(default_factory=dict)
    _sets_autocast: dict[fx.Graph, bool] = field(default_factory=dict)
    _irreplaceable: dict[Hashable, Description] = field(default_factory=dict)
    _neighbours: dict[fx.Graph, Neighbours] = field(default_factory=dict)
    _planned: Planned | None = field(init=False)

    def __post_init__(self) -> None:
        plan = self.request.plan
        self._planned = Planned(plan, self.request.inner, self.chooser.misfit) if plan is not None else None

    def decide(self, call: LayerCall, conflict: Miss | None = None) -> Decision:
        """Return the decision for one call, by itself.

        Args:
            call: The call.
            conflict: Why its region cannot be replaced beside the calls that are rewritten already, if it cannot.
        """
        if (miss := is_excluded(call, self.request)) is not None:
            return Decision("excluded", (miss,), gates=(Gate("filter", "failed", miss),))
        if (miss := is_not_the_annotated_one(call)) is not None:
            return Decision("missed", (miss,), gates=(_WANTED, Gate("annotation", "failed", miss)))
        if (miss := is_not_mapped(call, self.request.mapping)) is not None:
            return Decision("missed", (miss,), gates=(_WANTED, _ANNOTATED, Gate("mapping", "failed", miss)))
        key = form(call) if call.complete else None
        if key not in self._only_computes:
            self._only_computes[key] = only_computes(call)
        if (miss := conflict or why_not_replaceable(call, only_computes=self._only_computes[key])) is not None:
            gates = (_WANTED, _ANNOTATED, Gate("region", "failed", miss))
            return Decision("missed", (miss,), gates=gates, described=self._of_irreplaceable(call, key))
        origin: LayerOrigin = call.site.origin
        inputs = external_inputs(call)
        values = _values(call, inputs)
        autocast = self._autocast_at(call)
        full_key = (
            *(key, values, autocast, call.site.layer_name, call.site.training),
            *(origin.reference, origin.state_key, tuple(origin.opaque.items())),
            self._planned.entry(call) if self._planned is not None else None,
        )
        verdict = self._verdicts.get(full_key)
        if verdict is None:
            verdict = self._verdicts[full_key] = self._judge(call, full_key, autocast)
        if verdict.taken is not None and self.request.measures(device_of_call(call)):
            verdict = self._weighed(verdict, call, full_key, autocast)
        return self._decision(verdict, call, inputs)

    def _weighed(self, verdict: _Verdict, call: LayerCall, key: Hashable, autocast: torch.dtype | None) -> _Verdict:
        """The verdict on calls that also have neighbours of one form: of the kernels that fit, the one that is worth it is taken."""
        around = self._around(call)
        full_key = (key, around.structure, tuple([_metadata(example(node)) for node in around.inputs]))
        if full_key not in self._verdicts:
            inputs = external_inputs(call)

            def replacement_of(answer: Answer) -> Replacement:
                cloned = self._cloned(answer, call, inputs)
                return Replacement(self._kernel_call(answer, verdict.reference, call, cloned), inputs)

            answers = Weighing(verdict.answers, around, call.module, replacement_of, autocast).weighed(self.request, self.chooser.budget)
            self._verdicts[full_key] = _concluded(verdict.gates, answers, verdict.reference)
        return self._verdicts[full_key]

    def _around(self, call: LayerCall) -> Neighbourhood:
        if call.graph not in self._neighbours:
            self._neighbours[call.graph] = Neighbours(call.graph)
        return self._neighbours[call.graph].of(call)

    def _decision(self, verdict: _Verdict, call: LayerCall, inputs: tuple[fx.Node, ...]) -> Decision:
        taken, gates, candidates = verdict.taken, verdict.gates, verdict.candidates
        if taken is None:
            described = _described(verdict, call, None)
            return Decision("missed", verdict.misses, gates=gates, candidates=candidates, described=described)
        lowering = taken.chosen.lowering if taken.chosen is not None else None
        kernel, chosen, cloned = taken.kernel, taken.chosen, self._cloned(taken, call, inputs)
        described = _described(verdict, call, tuple(cloned))
        if taken.outcome == "unknown" or kernel is None or chosen is None or verdict.reference is None:
            return Decision("unknown", verdict.misses, kernel, None, lowering, gates, candidates, None, described)
        if (miss := self.chooser.fuel.allows(call.key)) is not None:
            return Decision("excluded", (miss,), gates=(Gate("filter", "failed", miss),), described=_described(verdict, call, None))
        if lowering is not None and cloned and taken.bound is not None:
            names = input_names(kernel, taken.bound, len(inputs))
            lowering = replace(lowering, clones=tuple(names[position] for position in cloned))
        if chosen.opaque is not None:
            chosen.opaque.used_at(call.key)
        replacement = Replacement(self._kernel_call(taken, verdict.reference, call, cloned), inputs)
        return Decision("rewritten", verdict.misses, kernel, replacement, lowering, gates, candidates, taken.admitted, described)

    def _cloned(self, answer: Answer, call: LayerCall, inputs: tuple[fx.Node, ...]) -> list[int]:
        """Positions of the inputs of which the kernel gets a copy, as it overwrites them and somebody would notice."""
        written = answer.chosen.written if answer.chosen is not None else frozenset()
        return [position for position in sorted(written) if self._is_seen(inputs[position], call)]

    def _kernel_call(self, answer: Answer, reference: fx.GraphModule | None, call: LayerCall, cloned: list[int]) -> KernelCall:
        """What stands in the graph where a kernel takes the place of a call."""
        kernel, bound, chosen = answer.kernel, answer.bound, answer.chosen
        assert kernel is not None
        assert bound is not None
        assert chosen is not None
        assert reference is not None
        differentiable = any(getattr(example(node), "requires_grad", False) for node in call.outputs)
        target = bound.kernel_call(
            *(kernel, call.key, reference, len(call.outputs), differentiable),
            recompute=chosen.recompute,
            cloned=cloned,
            operators=chosen.opaque,
            launches=chosen.lowering is not None and chosen.lowering.name == "triton",
            orders=chosen.orders,
        )
        if chosen.opaque is not None:
            target.cache_key = digest(call.key, chosen.opaque.key, repr((chosen.recompute, differentiable)))
        return target

    def _is_seen(self, value: fx.Node, call: LayerCall) -> bool:
        """Whether somebody would notice that the kernel overwrites the value."""
        if call.graph not in self._memories:
            self._memories[call.graph] = Memory(call.graph, [each for each in self.calls if each.graph is call.graph])
        return self._memories[call.graph].witness(value, call) is not None

    def _autocast_at(self, call: LayerCall) -> torch.dtype | None:
        device = device_of_call(call)
        if call.graph not in self._sets_autocast:
            self._sets_autocast[call.graph] = has_regions(call.graph)
        return dtype_at(call.first, device) if self._sets_autocast[call.graph] else current_dtype(device)

    def _of_irreplaceable(self, call: LayerCall, key: Hashable) -> Description | None:
        if not call.complete:
            return None
        full_key = (key, _values(call, external_inputs(call)))
        if full_key not in self._irreplaceable:
            self._irreplaceable[full_key] = describe(call)
        return self._irreplaceable[full_key]

    def _judge(self, call: LayerCall, key: Hashable, autocast: torch.dtype | None) -> _Verdict:
        """Ask the last gates of the call, then its candidates until one passes."""
        gates: tuple[Gate, ...] = (_WANTED, _ANNOTATED, _REPLACEABLE)
        device = device_of_call(call)
        if not device:
            return _missed(gates, "device", Miss("no_device", "the call has no tensor that tells its device"))
        target = self.chooser.target(device)
        if (miss := is_on_another_device(target, self.request)) is not None:
            return _missed(gates, "device", miss)
        gates = (*gates, Gate("device", note=str(target)))
        entries = self.request.mapping.lookup(call.site.layer_name, target, mode_of(call, self.request))
        if isinstance(entries, Miss):
            return _missed(gates, "mapping", entries)
        gates = (*gates, Gate("mapping"))
        reference = reference_of(call, call.module)
        asking = Asking(
            self.chooser, self.request, call, target, key, lambda kernel, bound: _case(kernel, bound, call, reference, autocast)
        )
        if self._planned is not None:
            repositories = [entry.repository for entry in entries]
            return _concluded(gates, self._planned.answers(self._planned.entry(call), repositories, asking.ask), reference)
        answers: list[Answer] = []
        for entry in entries:
            answers.append(asking.ask(entry.repository))
            if answers[-1].outcome != "failed" and not self.request.measures(device):
                break
        return _concluded(gates, tuple(answers), reference)


def _concluded(gates: tuple[Gate, ...], answers: tuple[Answer, ...], reference: fx.GraphModule | None) -> _Verdict:
    """The verdict that candidates' answers come to: the last one that did not fail is taken, if there is one."""
    candidates = tuple([answer.candidate for answer in answers])
    taken = next((answer for answer in reversed(answers) if answer.outcome != "failed"), None)
    misses = tuple([candidate.miss for candidate in candidates if candidate.miss is not None])
    return _Verdict(gates, misses, candidates, taken, reference, answers)


def _described(verdict: _Verdict, call: LayerCall, cloned: tuple[int, ...] | None) -> Description:
    """The call in words, with the kernel's call if there is one, for which `cloned` says which inputs are copied first."""
    found = verdict.descriptions.get(cloned)
    if found is None:
        taken = verdict.taken
        if cloned is not None and taken is not None and taken.kernel is not None:
            found = describe(call, taken.kernel.identity, taken.bound, cloned)
        else:
            found = describe(call)
        verdict.descriptions[cloned] = found
    return found


def _values(call: LayerCall, inputs: tuple[fx.Node, ...]) -> tuple[Hashable, ...]:
    return tuple([_metadata(example(node)) for node in (*inputs, *call.outputs)])


def _missed(gates: tuple[Gate, ...], name: str, miss: Miss) -> _Verdict:
    return _Verdict((*gates, asked(name, miss)), (miss,))


def _case(kernel: KernelLayer, bound: Bound, call: LayerCall, reference: fx.GraphModule, autocast: torch.dtype | None) -> Case:
    nodes = external_inputs(call)
    places = {node: position for position, node in enumerate(nodes)}
    passed = {position: places[node] for position, node in enumerate(call.outputs) if node not in call.inside}
    inputs, outputs = tuple(map(example, nodes)), tuple(map(example, call.outputs))
    return Case(kernel, bound, call.key, inputs, outputs, passed, without_metadata(reference), torch.device(device_of_call(call)), autocast)


def _metadata(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return repr(value)
    sizes = [_size(size) for size in value.shape]
    # The stride of a dimension of size 1 is never used, and kernels differ in what they put there.
    strides = tuple(_size(stride) for size, stride in zip(sizes, value.stride(), strict=True) if size != 1)
    return (value.dtype, value.device, value.requires_grad, tuple(sizes), strides)


def _size(size: Any) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else size
