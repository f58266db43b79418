"""One candidate for one form of call, through its gates."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..admission import Admitted, ProbeCase, admit, known
from ..capture import _torch
from ..constraints.gate import ConstraintResult, check_constraints, check_probed_sizes
from ..kernels.bound import Bound
from ..kernels.layer import KernelLayer
from ..kernels.loader import CallForm
from ..kernels.lowering.case import Case
from ..kernels.lowering.choose import Chosen, choose
from ..kernels.origin import LayerOrigin
from ..mapping import Repository
from ..passes.example_values import example
from ..passes.gate import Candidate, Gate, Outcome
from ..passes.layer_call import LayerCall
from ..passes.miss import Miss
from ..passes.region import external_inputs
from ..target import Target
from .call_gates import cannot_be_an_input, is_training, supports_mode
from .memory import Chooser, Shown
from .repositories import name_of, why_not_fetched
from .request import Request


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a candidate.

    Args:
        candidate: Its gates, for the report.
        kernel: The kernel layer, if it was loaded.
        bound: How it is called, if it got that far.
        chosen: How it enters the graph, if it got that far.
        admitted: How it was admitted, if it got that far.
    """

    candidate: Candidate
    kernel: KernelLayer | None = None
    bound: Bound | None = None
    chosen: Chosen | None = None
    admitted: Admitted | None = None

    @property
    def outcome(self) -> Outcome:
        """That of the candidate."""
        return self.candidate.outcome


def asked(name: str, answer: Miss | str | None) -> Gate:
    """Return a gate by what its question was answered: a miss, a sentence that says why nobody knows, or None for a pass."""
    if isinstance(answer, Miss):
        return Gate(name, "failed", answer)
    return Gate(name) if answer is None else Gate(name, "unknown", note=answer)


@dataclass
class Asking:
    """Asks the candidates of one form of call.

    Args:
        chooser: What is remembered from graph to graph.
        request: What the user asked for.
        call: The first call of this form in this graph.
        target: What kernels are chosen for.
        key: What all calls of this form have in common.
        case_of: Returns what a lowering and a probe need to know; made when somebody needs it.
    """

    chooser: Chooser
    request: Request
    call: LayerCall
    target: Target
    key: Hashable
    case_of: Callable[[KernelLayer, Bound], Case]
    _gates: list[Gate] = field(default_factory=list)

    def ask(self, repository: Repository) -> Answer:
        """Ask one candidate's gates, in order, until one fails."""
        name, self._gates = name_of(repository), []
        loaded = self._load(repository)
        if not isinstance(loaded, KernelLayer):
            return Answer(Candidate(name, (asked("repository", loaded),)))
        self._gates.append(Gate("repository", note=str(loaded.identity)))
        if not self._passes_contract(loaded):
            return self._answer(name, loaded)
        bound = Bound.of(loaded, self.call)
        inputs = tuple(map(example, external_inputs(self.call)))
        request = self.request
        constraints = check_constraints(loaded, bound, inputs, self.target, on_depends=request.on_depends, triton=request.triton)
        if not self._meets("constraints", constraints):
            return self._answer(name, loaded, bound)
        shown = self._shown(loaded, bound, inputs)
        self._gates += shown.gates
        ranges = shown.admitted.ranges if shown.admitted is not None else ()
        within = check_probed_sizes(loaded, bound, inputs, ranges, on_depends=request.on_depends)
        if not self._meets("admission", within):
            return self._answer(name, loaded, bound)
        answer = self._answer(name, loaded, bound, shown)
        if answer.outcome == "passed":
            self._enforce(constraints, within)
        return answer

    def _meets(self, name: str, result: ConstraintResult) -> bool:
        """Put what the sizes of the call were held to, if there is anything to say, in the place of the gate's earlier answer."""
        place = next((place for place, gate in enumerate(self._gates) if gate.name == name), len(self._gates))
        if result.miss is not None:
            self._gates[place:] = [Gate(name, "failed", result.miss)]
            self._enforce(result)
        elif result.note:
            self._gates[place : place + 1] = [Gate(name, note=result.note)]
        return result.miss is None

    def _enforce(self, *results: ConstraintResult) -> None:
        """Make what a final answer depends on a guard of the graph; other sizes are then decided anew."""
        for result in results:
            if result.guard is not None and self.request.runs:
                result.guard.enforce()

    def _answer(self, name: str, kernel: KernelLayer, bound: Bound | None = None, shown: Shown | None = None) -> Answer:
        candidate = Candidate(name, tuple(self._gates), kernel.identity)
        return Answer(candidate, kernel, bound, shown.chosen if shown else None, shown.admitted if shown else None)

    def _load(self, repository: Repository) -> KernelLayer | Miss | str:
        request = self.request
        if not request.runs and (reason := why_not_fetched(repository)) is not None:
            return reason
        loaded = self.chooser.loader.load(repository, self.target)
        if not isinstance(loaded, Miss) or request.runs:
            return loaded
        if loaded.code == "offline":
            return f"it is not in the cache, and nothing is fetched to explain: {loaded.message}"
        if loaded.code == "load_error" and request.elsewhere:
            return f"it is for {self.target}, and cannot be imported here: {loaded.message}"
        return loaded

    def _passes_contract(self, kernel: KernelLayer) -> bool:
        """The gates that need no more than the kernel's class and the call."""
        call, request = self.call, self.request
        origin: LayerOrigin = call.site.origin
        attributes = origin.state.available if origin.state is not None else frozenset()
        form = CallForm(origin.reference, origin.signature, len(call.args), tuple(call.kwargs), attributes)
        questions: tuple[tuple[str, Callable[[], Miss | None]], ...] = (
            ("contract", lambda: self.chooser.loader.contract(kernel, form)),
            ("inputs", lambda: cannot_be_an_input(call)),
            (
                "mode",
                lambda: supports_mode(kernel, is_training(call, request), request.declared and not request.opaque, request.backward),
            ),
        )
        for name, question in questions:
            self._gates.append(asked(name, question()))
            if self._gates[-1].outcome == "failed":
                return False
        return True

    # --- what a kernel shows only when it is run or tried ---------------------------------------------------------------------------------

    def _shown(self, kernel: KernelLayer, bound: Bound, inputs: tuple[Any, ...]) -> Shown:
        request = self.request
        asked_for = (request.compiled, request.opaque, request.backward, request.verify, torch.is_grad_enabled())
        key = (kernel.cls, asked_for, self.key, _dynamic_sizes(inputs))
        if key not in self.chooser.shown:
            self.chooser.shown[key] = self._try(self.case_of(kernel, bound))
        return self.chooser.shown[key]

    def _try(self, case: Case) -> Shown:
        """Admission comes first: a kernel that may crash is not rehearsed in this process before it was probed in another."""
        request = self.request
        if request.elsewhere:
            reason = f"it can be shown on {self.target} only"
            return Shown((asked("admission", reason), asked("lowering", reason)))
        admitted = self._admitted(case)
        if isinstance(admitted, Miss):
            return Shown((asked("admission", admitted),))
        gate = (
            Gate("admission", note=str(admitted))
            if admitted is not None
            else asked("admission", "no record of a probe; nothing is run to explain")
        )
        written = admitted.cloned if admitted is not None else frozenset()
        relaid = admitted.relaid if admitted is not None else frozenset()
        chosen = choose(
            case,
            compiled=request.compiled,
            opaque=request.opaque,
            tools=_torch,
            rehearses=request.runs,
            written=written,
            relaid=relaid,
        )
        if not isinstance(chosen, Chosen):
            return Shown((gate, asked("lowering", chosen)), None, admitted)
        passed = Gate("lowering", note=chosen.lowering.name if chosen.lowering is not None else "runs as it is")
        if admitted is None:
            return Shown((gate, passed), chosen)
        # What the probe saw on real tensors, a trial on fakes may not have seen: what C++ and Triton write, a gradient that is cut.
        seen = replace(chosen, written=chosen.written | admitted.cloned, recompute=chosen.recompute or admitted.detached)
        return Shown((gate, passed), seen, admitted)

    def _admitted(self, case: Case) -> Admitted | Miss | None:
        """How the kernel was admitted, or why it was not; None where only a probe could tell and none may run."""
        request = self.request
        if request.verify == "off":
            return Admitted("unverified")
        probe_case = ProbeCase.of(case, gradient=torch.is_grad_enabled())
        found = self._ask_admission(probe_case)
        if request.backward == "fallback" or not isinstance(found, Miss) or found.code != "gradient" or isinstance(probe_case, str):
            return found
        # A kernel whose gradient is wrong is as one that has none, and the reference's was asked for where there is none.
        forward = self._ask_admission(replace(probe_case, gradient=False))
        return replace(forward, detached=True) if isinstance(forward, Admitted) else forward or found

    def _ask_admission(self, probe_case: ProbeCase | str) -> Admitted | Miss | None:
        verify = self.request.verify
        return admit(probe_case, verify=verify) if self.request.runs else known(probe_case, verify=verify)


def _dynamic_sizes(inputs: tuple[Any, ...]) -> tuple[int | None, ...]:
    """What dynamic sizes are now: in another capture the same symbol may be another size, around which a probe has to look."""
    sizes = [size for value in inputs for size in (value.shape if isinstance(value, torch.Tensor) else (value,))]
    return tuple([size.node.hint for size in sizes if isinstance(size, torch.SymInt)])
