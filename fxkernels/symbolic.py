"""The symbolic way of `kernelize`: capture, plan and rewrite a model that `torch.fx` traces exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from .annotate import annotated_forward, annotation_of, condition_of
from .backend import check_fallback
from .candidates.call_gates import supports_mode
from .capture.captured_module import KEEPER
from .capture.rewritten_layer import KernelChoice
from .capture.symbolic import trace_symbolically
from .capture.symbolic_calls import SymbolicCall, layer_calls, rewrite_calls
from .fuel import Fuel
from .gatekeeper import Gatekeeper
from .kernels.layer import KernelLayer
from .kernels.loader import CallForm, KernelLoader
from .mode import Mode
from .options import Options
from .passes.miss import Miss
from .passes.plan import Status
from .report.model import CallReport, Evidence, GraphDecision, Report
from .report.recorder import publish
from .target import Target
from .versions import installed_versions

SYMBOLIC_ORIGINAL = "_fxkernels_original"
"""Attribute of a kernelized graph module under which the model stands that it came from."""

SYMBOLIC_OPTIONS = "_fxkernels_options"
"""The same for the options that it was made with."""


_LATER = Evidence("unprobed", "this is decided when the layer is called")

Chosen = KernelLayer | tuple[Miss, ...]
"""The kernel that layers with one training flag run, or why they run none."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What was decided for one call, for either training flag, and which of them its layer has now."""

    inference: Chosen
    training: Chosen
    is_training: bool

    @property
    def now(self) -> Chosen:
        return self.training if self.is_training else self.inference

    @property
    def otherwise(self) -> Chosen:
        return self.inference if self.is_training else self.training

    @property
    def choice(self) -> KernelChoice | None:
        kernels = [found if isinstance(found, KernelLayer) else None for found in (self.inference, self.training)]
        training = kernels[1]
        return KernelChoice(kernels[0], training, training is not None and not training.has_backward) if any(kernels) else None


def kernelize_symbolically(
    model: nn.Module, options: Options, target: Target, example: tuple[tuple[Any, ...], dict[str, Any]] | None = None
) -> fx.GraphModule:
    """Return the model as a graph module whose layer calls run kernels. `.report` says which.

    A layer that no kernel replaces is traced through if annotated calls happen inside it, so that those have their turn. What is decided
    here is who may run in a call; a gatekeeper decides who does when it is known what the layer is called with.

    Args:
        model: The model.
        options: What is asked for.
        target: What kernels are chosen for.
        example: Arguments and keyword arguments of a call, for which everything is decided at once.

    Raises:
        CaptureError: If the model cannot be traced.
        NoKernelError, RepositoryError: If a call has no kernel and `use_fallback` does not permit that.
    """
    chooser = options.chooser()
    planner = _Planner(options, target, chooser.loader, chooser.fuel)
    opened: set[str] = set()
    while True:
        module = trace_symbolically(model, opened)
        outcomes = [(call, planner.decide(call, _is_training(module, call))) for call in layer_calls(module)]
        outer = {call.path for call, outcome in outcomes if outcome.choice is None and _has_annotated_inside(call)}
        if outer <= opened:
            break
        opened |= outer
    now = [(call.key, call.layer_name, outcome.now) for call, outcome in outcomes if _status(outcome.now) == "missed"]
    missed = [(key, name, chosen) for key, name, chosen in now if not isinstance(chosen, KernelLayer)]
    check_fallback(options.use_fallback, missed)
    keeper = Gatekeeper(options, chooser=chooser)
    rewrite_calls(module, {call.key: outcome.choice for call, outcome in outcomes if outcome.choice is not None}, keeper)
    calls = (*(_called(*pair) for pair in outcomes), *_not_called(model, outcomes))
    name, versions = type(model).__qualname__, installed_versions()
    keeper.plan(Report(calls, (module,), capture="symbolic", model=name, targets=(target,), versions=versions))
    attributes = vars(module)
    attributes[KEEPER], attributes[SYMBOLIC_ORIGINAL], attributes[SYMBOLIC_OPTIONS] = keeper, model, options
    if example is not None:
        keeper.decide_for(module, *example)
    publish(keeper.report)
    return module


@dataclass(frozen=True)
class _Planner:
    """Decides calls for both training flags: the graph is one, and each layer chooses when it is called."""

    options: Options
    target: Target
    loader: KernelLoader
    fuel: Fuel

    def decide(self, call: SymbolicCall, is_training: bool) -> _Outcome:
        subject = call.layer if call.layer is not None else call.function
        condition = condition_of(subject)
        if condition is not None and not condition(subject):
            miss = Miss("condition_false", "the condition given with the annotation is false for this layer")
            return _Outcome((miss,), (miss,), is_training)
        outcome = _Outcome(self._choose(call, Mode.INFERENCE), self._choose(call, Mode.TRAINING), is_training)
        if outcome.choice is None or (refused := self.fuel.allows(call.key)) is None:
            return outcome
        return _Outcome((refused,), (refused,), is_training)

    def _choose(self, call: SymbolicCall, flag: Mode) -> Chosen:
        """The first candidate for layers with this training flag, or why there is none."""
        assert self.options.mapping is not None
        mode = self.options.kernel_mode or flag
        entries = self.options.mapping.lookup(call.layer_name, self.target, mode | Mode.TORCH_COMPILE if self.options.declared else mode)
        if isinstance(entries, Miss):
            return (entries,)
        misses: list[Miss] = []
        for entry in entries:
            kernel = self.loader.load(entry.repository, self.target)
            miss = kernel if isinstance(kernel, Miss) else self._gates(kernel, call, Mode.TRAINING in flag or Mode.TRAINING in mode)
            if miss is None:
                return kernel  # type: ignore[return-value]  # the gates say that it is no miss
            misses.append(miss)
        return tuple(misses)

    def _gates(self, kernel: KernelLayer, call: SymbolicCall, training: bool) -> Miss | None:
        reference = type(call.layer) if call.layer is not None else call.function
        form = CallForm(reference, call.signature, len(call.node.args), tuple(call.node.kwargs), _attributes(call.layer))
        return self.loader.contract(kernel, form) or supports_mode(
            kernel, training, self.options.declared and not self.options.opaque, self.options.backward
        )


def _attributes(layer: nn.Module | None) -> frozenset[str]:
    """What a kernel may read of the layer, which is itself the kernel's ``self`` here."""
    return frozenset(dir(layer)) if layer is not None else frozenset()


def _has_annotated_inside(call: SymbolicCall) -> bool:
    return call.layer is not None and any(annotated_forward(child) is not None for child in call.layer.modules() if child is not call.layer)


def _is_training(module: nn.Module, call: SymbolicCall) -> bool:
    return call.layer.training if call.layer is not None else module.get_submodule(call.owner).training


def _called(call: SymbolicCall, outcome: _Outcome) -> CallReport:
    """The call's decision for the training flag that its layer has now, after the other one's where they differ."""
    layer = type(call.layer).__qualname__ if call.layer is not None else getattr(call.function, "__qualname__", call.layer_name)
    now = _decision(outcome.now, outcome.is_training)
    before = () if outcome.now == outcome.otherwise else (_decision(outcome.otherwise, not outcome.is_training),)
    annotation = annotation_of(call.layer if call.layer is not None else getattr(call.function, "module", call.function))
    assert annotation is not None
    decisions = (*before, now if before else replace(now, training=None))
    return CallReport(call.path, call.index, call.layer_name, layer, None, decisions, annotation.source)


def _status(chosen: Chosen) -> Status:
    if isinstance(chosen, KernelLayer):
        return "rewritten"
    return "excluded" if chosen and chosen[0].code == "excluded" else "missed"


def _decision(chosen: Chosen, training: bool) -> GraphDecision:
    if isinstance(chosen, KernelLayer):
        return GraphDecision(0, "rewritten", chosen.identity, training=training, evidence=_LATER)
    return GraphDecision(0, _status(chosen), None, chosen, training=training)


def _not_called(model: nn.Module, outcomes: list[tuple[SymbolicCall, _Outcome]]) -> list[CallReport]:
    """Annotated layers that the graph does not call; those inside a rewritten one are covered by it."""
    called = {call.path for call, _ in outcomes}
    rewritten = [call for call, outcome in outcomes if outcome.choice is not None]
    reports = []
    for path, module in model.named_modules():
        annotation = annotation_of(module)
        if annotation is None or path in called:
            continue
        cover = next((call for call in rewritten if path.startswith(f"{call.path}.")), None)
        if annotated_forward(module) is None:
            decision = GraphDecision(0, "missed", None, (Miss("forward_overridden", "its class overrides the annotated forward"),))
        elif cover is not None:
            miss = Miss("covered", "it happens inside {key}, which a kernel replaces", {"key": cover.key})
            decision = GraphDecision(0, "covered", None, (miss,))
        else:
            decision = GraphDecision(-1, "not_captured", None, (Miss("not_captured", "the model's forward does not call it"),))
        reports.append(CallReport(path, 0, annotation.layer_name, type(module).__qualname__, None, (decision,), annotation.source))
    return reports
