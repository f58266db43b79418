"""What each candidate for a form of call is asked."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..admission import Admitted, ProbeCase, admit, known
from ..admission.verdict import ADMISSION
from ..capture import _torch
from ..constraints.gate import CONSTRAINTS, ConstraintResult, check_constraints, check_probed_sizes
from ..kernels.binding import Binding
from ..kernels.call_form import CallForm
from ..kernels.contract import CONTRACT, breaks_contract
from ..kernels.layer import KernelLayer
from ..kernels.loader import REPOSITORY
from ..kernels.lowering.choose import LOWERING, Chosen, choose
from ..kernels.lowering.kernel_case import KernelCase
from ..kernels.lowering.repairs import Repairs
from ..kernels.origin import LayerOrigin
from ..mapping import Repository
from ..mode import Mode
from ..options import Options
from ..passes.example_values import example
from ..passes.gate import CandidateResult, Gate, GateResult, Outcome
from ..passes.layer_call import LayerCall
from ..passes.miss import Miss
from ..passes.region import external_inputs
from ..target import Target
from .decision_cache import DecisionCache
from .repositories import name_of, why_not_fetched

INPUTS = Gate("inputs", "candidate", ("opaque_argument", "tensor_subclass"))
"""Can every argument be an input of a kernel?"""

MODE = Gate("mode", "candidate", ("no_backward", "not_compilable"))
"""May the kernel run in the layer's mode, and in the compiler?"""


@dataclass(eq=False)
class Candidate:
    """A repository that the mapping has for a form of call, on its way through its gates, with what they find out.

    Args:
        repository: The repository.
        call: The first call of this form in this graph.
        form: The form.
        target: What kernels are chosen for.
        options: What the user asked for.
        cache: What is known of kernels.
        case_of: Returns what a lowering and a probe need to know.
        gates: The answers so far.
        kernel: The kernel layer, once it is loaded.
        admitted: How it was admitted, if it got that far.
        chosen: How it enters the graph, if it got that far.
        pending: What the answers depend on where sizes are dynamic, and what is no guard yet.
    """

    repository: Repository
    call: LayerCall
    form: CallForm
    target: Target
    options: Options
    cache: DecisionCache
    case_of: Callable[[KernelLayer, Binding], KernelCase]
    gates: list[GateResult] = field(default_factory=list)
    kernel: KernelLayer | None = None
    admitted: Admitted | None = None
    chosen: Chosen | None = None
    pending: list[ConstraintResult] = field(default_factory=list)
    _binding: Binding | None = None
    _case: KernelCase | None = None

    @property
    def result(self) -> CandidateResult:
        """What its gates have answered, for the report."""
        return CandidateResult(name_of(self.repository), tuple(self.gates), self.kernel.identity if self.kernel is not None else None)

    @property
    def outcome(self) -> Outcome:
        """That of its gates."""
        return self.result.outcome

    @property
    def loaded(self) -> KernelLayer:
        """The kernel layer of a candidate that has passed the first gate."""
        assert self.kernel is not None
        return self.kernel

    @property
    def binding(self) -> Binding:
        """How the kernel is called."""
        if self._binding is None:
            self._binding = Binding.of(self.loaded, self.call)
        return self._binding

    @property
    def case(self) -> KernelCase:
        """What a lowering and a probe need to know."""
        if self._case is None:
            self._case = self.case_of(self.loaded, self.binding)
        return self._case

    @property
    def inputs(self) -> tuple[Any, ...]:
        """Example values of the call's inputs."""
        return tuple(map(example, external_inputs(self.call)))

    def key(self, *asked_for: Hashable) -> Hashable:
        """What an answer that is kept from graph to graph depends on, besides what was asked for."""
        return (self.loaded.cls, asked_for, torch.is_grad_enabled(), self.form, _dynamic_sizes(self.inputs))

    def enforce(self, *results: ConstraintResult) -> None:
        """Make what a final answer depends on a guard of the graph; other sizes are then decided anew."""
        for result in results:
            if result.guard is not None and self.options.edit:
                result.guard.enforce()


Question = Callable[[Candidate], GateResult]


def can_be_loaded(this: Candidate) -> GateResult:
    """The repository has a kernel layer for the target that can be loaded, or is in the cache where nothing may be fetched."""
    options, repository = this.options, this.repository
    if not options.edit and (reason := why_not_fetched(repository)) is not None:
        return REPOSITORY.unknown(reason)
    loaded = this.cache.loader.load(repository, this.target)
    if isinstance(loaded, KernelLayer):
        this.kernel = loaded
        return REPOSITORY.passed(str(loaded.identity))
    if not options.edit and loaded.code == "offline":
        return REPOSITORY.unknown(f"it is not in the cache, and nothing is fetched to explain: {loaded.message}")
    if options.target is not None and loaded.code == "load_error":
        return REPOSITORY.unknown(f"it is for {this.target}, and cannot be imported here: {loaded.message}")
    return REPOSITORY.failed(loaded)


def keeps_the_contract(this: Candidate) -> GateResult:
    """The kernel takes what the layer takes, and reads only what the layer has."""
    call = this.call
    return CONTRACT.of(breaks_contract(this.loaded, call.site.origin, len(call.args), tuple(call.kwargs)))


def takes_the_inputs(this: Candidate) -> GateResult:
    """Every argument can be handed to a kernel: a graph value or a constant, and no tensor of a foreign class."""
    origin: LayerOrigin = this.call.site.origin
    for place, kind in origin.opaque.items():
        data = {"place": place, "kind": kind}
        return INPUTS.failed(Miss("opaque_argument", "argument {place} is a {kind}, which cannot be an input of a graph", data))
    for node in this.call.marked_inputs:
        if _torch.is_wrapper_subclass(example(node)):
            return INPUTS.failed(Miss("tensor_subclass", "{node} is a {kind}", {"node": node.name, "kind": type(example(node)).__name__}))
    return INPUTS.passed()


def supports_the_mode(this: Candidate) -> GateResult:
    """A kernel without a backward gives way in training mode; where declared support is asked for, the kernel must declare it."""
    kernel, options = this.loaded, this.options
    training = bool(this.call.site.training) or (options.kernel_mode is not None and Mode.TRAINING in options.kernel_mode)
    data = {"kernel": kernel.identity}
    if training and not kernel.has_backward and options.backward == "fallback":
        return MODE.failed(Miss("no_backward", "{kernel} has no backward and the layer is in training mode", data))
    if options.declared and not options.opaque and not kernel.can_torch_compile:
        return MODE.failed(Miss("not_compilable", "{kernel} does not say that it supports torch.compile", data))
    return MODE.passed()


def meets_constraints(this: Candidate) -> GateResult:
    """The call meets what the kernel's repository demands."""
    found = check_constraints(
        this.loaded, this.binding, this.inputs, this.target, on_depends=this.options.on_depends, triton=this.cache.triton
    )
    return _answer(this, CONSTRAINTS, found, "")


def is_admitted(this: Candidate) -> GateResult:
    """The kernel has shown in a probe that it computes what the layer computes, for sizes like the call's."""
    options = this.options
    if options.target is not None:
        return ADMISSION.unknown(f"it can be shown on {this.target} only")
    key = this.key(options.backward, options.verify)
    if key not in this.cache.admitted:
        this.cache.admitted[key] = _admitted(this.case, options)
    admitted = this.cache.admitted[key]
    if isinstance(admitted, Miss):
        return ADMISSION.failed(admitted)
    if admitted is None:
        return ADMISSION.unknown("no record of a probe; nothing is run to explain")
    this.admitted = admitted
    within = check_probed_sizes(this.loaded, this.binding, this.inputs, admitted.ranges, on_depends=options.on_depends)
    return _answer(this, ADMISSION, within, str(admitted))


def can_enter_the_graph(this: Candidate) -> GateResult:
    """A compiler can follow the kernel's Python, or the kernel becomes an operator of its own; its outputs are like the layer's."""
    options = this.options
    if options.target is not None:
        return LOWERING.unknown(f"it can be shown on {this.target} only")
    repairs = this.admitted.repairs if this.admitted is not None else Repairs()
    key = this.key(options.compiled, options.opaque, repairs)
    if key not in this.cache.chosen:
        this.cache.chosen[key] = choose(
            this.case, compiled=options.compiled, opaque=options.opaque, tools=_torch, rehearses=options.edit, known=repairs
        )
    chosen = this.cache.chosen[key]
    if isinstance(chosen, Miss):
        return LOWERING.failed(chosen)
    if isinstance(chosen, str):
        return LOWERING.unknown(chosen)
    this.chosen = chosen
    return LOWERING.passed(chosen.lowering.name if chosen.lowering is not None else "runs as it is")


def _answer(this: Candidate, gate: Gate, found: ConstraintResult, note: str) -> GateResult:
    """What the sizes of a call were held to. A miss holds for them only, and so does a candidate that passes all gates."""
    if found.miss is not None:
        this.enforce(found)
        return gate.failed(found.miss)
    this.pending.append(found)
    return gate.passed(found.note or note)


def _admitted(case: KernelCase, options: Options) -> Admitted | Miss | None:
    """How the kernel was admitted, or why it was not; None where only a probe could tell and none may run."""
    if options.verify == "off":
        return Admitted("unverified")
    probe_case = ProbeCase.of(case, gradient=torch.is_grad_enabled())
    ask = admit if options.edit else known
    found = ask(probe_case, verify=options.verify)
    if options.backward == "fallback" or not isinstance(found, Miss) or found.code != "gradient" or isinstance(probe_case, str):
        return found
    # A kernel whose gradient is wrong is as one that has none, and the reference's was asked for where there is none.
    forward = ask(replace(probe_case, gradient=False), verify=options.verify)
    if not isinstance(forward, Admitted):
        return forward or found
    return replace(forward, repairs=forward.repairs | Repairs(recompute=f"its own was turned away ({found.message})"))


def _dynamic_sizes(inputs: tuple[Any, ...]) -> tuple[int | None, ...]:
    """What dynamic sizes are now: in another capture the same symbol may be another size, around which a probe has to look."""
    sizes = [size for value in inputs for size in (value.shape if isinstance(value, torch.Tensor) else (value,))]
    return tuple([size.node.hint for size in sizes if isinstance(size, torch.SymInt)])
