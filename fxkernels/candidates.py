"""From mapping and target to a decision about one layer call: the candidates, and the gates each must pass."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from .admission import Request as Showing
from .admission import Verify, admit
from .capture import _torch
from .kernels.bound import Bound
from .kernels.layer import KernelLayer
from .kernels.loader import CallForm, KernelLoader
from .kernels.lowering.autocast import dtype_at
from .kernels.lowering.case import Case, input_names
from .kernels.lowering.choose import Chosen, choose
from .kernels.lowering.lowering import Backward
from .kernels.lowering.names import digest
from .kernels.lowering.opaque import without_metadata
from .kernels.origin import LayerOrigin
from .mapping import KernelMapping
from .mode import Mode
from .passes.alias import Memory
from .passes.layer_call import LayerCall
from .passes.miss import Miss
from .passes.plan import Decision, Replacement
from .passes.reference import form, reference_of
from .passes.region import example, external_inputs, only_computes, why_not_replaceable
from .target import Target


@dataclass(frozen=True)
class Request:
    """What the user asked for, as far as choosing kernels goes.

    Args:
        mapping: The mapping to choose from.
        device: Restricts to calls on this device type.
        mode: Overrides the layers' training flags when the mapping is consulted.
        compiled: Whether the rewritten graph goes to a compiler, which must be able to trace the kernels.
        declared: Whether only kernels that say that they support torch.compile are taken.
        opaque: Whether a kernel that the compiler cannot trace may be an operator of its own.
        backward: What a kernel without a backward means in training mode: the original layer, or its gradient only.
        verify: How much a kernel has to show before it is used; None for nothing.
        only: Globs of module paths; where given, other calls are excluded.
        exclude: Globs of module paths that are excluded.
    """

    mapping: KernelMapping
    device: str | None = None
    mode: Mode | None = None
    compiled: bool = False
    declared: bool = False
    opaque: bool = False
    backward: Backward = "fallback"
    verify: Verify | None = None
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What the mapping's candidates come to for calls of one form: the first that passes its gates, and the misses before it."""

    misses: tuple[Miss, ...]
    kernel: KernelLayer | None = None
    bound: Bound | None = None
    reference: fx.GraphModule | None = None
    chosen: Chosen | None = None


@dataclass
class Chooser:
    """What choosing kernels remembers from graph to graph: targets, loaded kernels, trials.

    Args:
        target_of: From a device type to the target.
    """

    target_of: Callable[[str], Target]
    loader: KernelLoader = field(default_factory=KernelLoader)
    targets: dict[str, Target] = field(default_factory=dict)
    trials: dict[Hashable, Chosen | Miss] = field(default_factory=dict)

    def target(self, device: str) -> Target:
        """Return the target for a device type."""
        if device not in self.targets:
            self.targets[device] = self.target_of(device)
        return self.targets[device]


@dataclass
class Decider:
    """Decides the layer calls of one captured graph. Calls of the same form are decided once; so the thirty-second norm costs little."""

    chooser: Chooser
    request: Request
    _only_computes: dict[Hashable, bool] = field(default_factory=dict)
    _verdicts: dict[Hashable, _Verdict] = field(default_factory=dict)
    _memories: dict[fx.Graph, Memory] = field(default_factory=dict)

    def decide(self, call: LayerCall, owner: fx.GraphModule) -> Decision:
        """Return the decision for one call, by itself.

        Args:
            call: The call.
            owner: The module whose graph it stands in.
        """
        early = _excluded(call, self.request) or _unannotated(call, self.request)
        if early is not None:
            return early
        key = form(call) if call.leave is not None else None
        if key not in self._only_computes:
            self._only_computes[key] = only_computes(call)
        miss = why_not_replaceable(call, only_computes=self._only_computes[key])
        if miss is not None:
            return Decision("missed", (miss,))
        origin: LayerOrigin = call.site.origin
        inputs = external_inputs(call)
        values = tuple([_metadata(example(node)) for node in (*inputs, *call.outputs)])
        autocast = dtype_at(call.enter, _device(call))
        full_key = (
            *(key, values, autocast, call.site.layer_name, call.site.training),
            *(origin.reference, origin.state_key, tuple(origin.opaque.items())),
        )
        verdict = self._verdicts.get(full_key)
        if verdict is None:
            verdict = self._verdicts[full_key] = self._judge(call, owner, full_key, autocast)
        return self._rewritten(verdict, call, inputs)

    def _rewritten(self, verdict: _Verdict, call: LayerCall, inputs: tuple[fx.Node, ...]) -> Decision:
        kernel, bound, chosen = verdict.kernel, verdict.bound, verdict.chosen
        if kernel is None or bound is None or chosen is None or verdict.reference is None:
            return Decision("missed", verdict.misses)
        cloned = [position for position in sorted(chosen.written) if self._is_seen(inputs[position], call)]
        lowering = chosen.lowering
        if lowering is not None and cloned:
            names = input_names(kernel, bound, len(inputs))
            lowering = replace(lowering, clones=tuple(names[position] for position in cloned))
        if chosen.opaque is not None:
            chosen.opaque.used_at(call.key)
        differentiable = any(getattr(example(node), "requires_grad", False) for node in call.outputs)
        target = bound.kernel_call(
            *(kernel, call.key, verdict.reference, len(call.outputs), differentiable),
            recompute=chosen.recompute,
            cloned=cloned,
            operators=chosen.opaque,
            launches=lowering is not None and lowering.name == "triton",
        )
        if chosen.opaque is not None:
            target.cache_key = digest(call.key, chosen.opaque.key, repr((chosen.recompute, differentiable)))
        return Decision("rewritten", verdict.misses, kernel, Replacement(target, inputs), lowering)

    def _is_seen(self, value: fx.Node, call: LayerCall) -> bool:
        """Whether somebody would notice that the kernel overwrites the value."""
        graph = call.enter.graph
        if graph not in self._memories:
            self._memories[graph] = Memory(graph)
        return self._memories[graph].witness(value, call) is not None

    def _judge(self, call: LayerCall, owner: fx.GraphModule, key: Hashable, autocast: torch.dtype | None) -> _Verdict:
        target = self._target(call)
        if isinstance(target, Miss):
            return _Verdict((target,))
        entries = self.request.mapping.lookup(call.site.layer_name, target, _mode(call, self.request))
        if isinstance(entries, Miss):
            return _Verdict((entries,))
        reference = reference_of(call, owner)
        misses: list[Miss] = []
        for entry in entries:
            kernel = self.chooser.loader.load(entry.repository, target)
            found = kernel if isinstance(kernel, Miss) else self._admit(kernel, call, reference, key, autocast)
            if isinstance(kernel, KernelLayer) and isinstance(found, tuple):
                return _Verdict(tuple(misses), kernel, found[0], reference, found[1])
            if isinstance(found, Miss):
                misses.append(found)
        return _Verdict(tuple(misses))

    def _target(self, call: LayerCall) -> Target | Miss:
        device = _device(call)
        if not device:
            return Miss("no_device", "the call has no tensor that tells its device")
        target, asked = self.chooser.target(device), self.request.device
        if asked is not None and target.device != asked:
            data = {"device": target.device, "asked": asked}
            return Miss("no_device", "the call is on {device}, and kernels were asked for {asked} only", data)
        return target

    def _admit(
        self, kernel: KernelLayer, call: LayerCall, reference: fx.GraphModule, key: Hashable, autocast: torch.dtype | None
    ) -> tuple[Bound, Chosen] | Miss:
        """Ask the candidate's gates; return how the kernel is called if it passes them."""
        origin: LayerOrigin = call.site.origin
        request = self.request
        attributes = origin.state.available if origin.state is not None else frozenset()
        calling = CallForm(origin.reference, origin.signature, len(call.args), tuple(call.kwargs), attributes)
        miss = (
            self.chooser.loader.contract(kernel, calling)
            or _opaque(origin)
            or supports_mode(kernel, _training(call, request), request.declared and not request.opaque, request.backward)
            or _subclass(call)
        )
        if miss is not None:
            return miss
        bound = Bound.of(kernel, call)
        trial = (kernel.cls, request.compiled, request.opaque, request.backward, request.verify, torch.is_grad_enabled(), key)
        if trial not in self.chooser.trials:
            self.chooser.trials[trial] = self._try(_case(kernel, bound, call, reference, autocast))
        chosen = self.chooser.trials[trial]
        return chosen if isinstance(chosen, Miss) else (bound, chosen)

    def _try(self, case: Case) -> Chosen | Miss:
        """Admission comes first: a kernel that may crash is not rehearsed in this process before it was probed in another."""
        request = self.request
        if request.verify is None:
            return choose(case, compiled=request.compiled, opaque=request.opaque, tools=_torch)
        admitted = admit(Showing.of(case, gradient=torch.is_grad_enabled()), verify=request.verify)
        if isinstance(admitted, Miss):
            return admitted
        chosen = choose(case, compiled=request.compiled, opaque=request.opaque, tools=_torch)
        if isinstance(chosen, Miss):
            return chosen
        # What the probe saw on real tensors, a trial on fakes may not have seen: what C++ and Triton write, a gradient that is cut.
        return replace(chosen, written=chosen.written | admitted.cloned, recompute=chosen.recompute or admitted.detached)


# --- gates, each one question ------------------------------------------------------------------------------------------------------------


def _excluded(call: LayerCall, request: Request) -> Decision | None:
    path = call.site.path
    if any(fnmatch.fnmatchcase(path, glob) for glob in request.exclude):
        return Decision("excluded", (Miss("excluded", "the path matches exclude="),))
    if request.only and not any(fnmatch.fnmatchcase(path, glob) for glob in request.only):
        return Decision("excluded", (Miss("excluded", "the path matches none of only="),))
    return None


def _unannotated(call: LayerCall, request: Request) -> Decision | None:
    origin: LayerOrigin = call.site.origin
    if origin.overridden:
        return Decision("missed", (Miss("forward_overridden", "{layer} overrides the annotated forward", {"layer": call.site.layer}),))
    if origin.condition is False:
        return Decision("missed", (Miss("condition_false", "the condition given with the annotation is false for this layer"),))
    if not call.site.arguments_known:
        known = ", ".join(request.mapping.layer_names) or "nothing"
        data = {"layer": call.site.layer_name, "mapped": known}
        return Decision("missed", (Miss("no_mapping", "no kernel is mapped to layer name {layer!r}; mapped are: {mapped}", data),))
    return None


def _opaque(origin: LayerOrigin) -> Miss | None:
    for place, kind in origin.opaque.items():
        return Miss("opaque_argument", "argument {place} is a {kind}, which cannot be an input of a graph", {"place": place, "kind": kind})
    return None


def supports_mode(kernel: KernelLayer, training: bool, declared: bool, backward: Backward = "fallback") -> Miss | None:
    """A kernel without a backward gives way in training mode; where declared support is asked for, the kernel must declare it."""
    if training and not kernel.has_backward and backward == "fallback":
        return Miss("no_backward", "{kernel} has no backward and the layer is in training mode", {"kernel": kernel.identity})
    if declared and not kernel.can_torch_compile:
        return Miss("not_compilable", "{kernel} does not say that it supports torch.compile", {"kernel": kernel.identity})
    return None


def _subclass(call: LayerCall) -> Miss | None:
    for node in call.marked_inputs:
        if _torch.is_wrapper_subclass(example(node)):
            return Miss("tensor_subclass", "{node} is a {kind}", {"node": node.name, "kind": type(example(node)).__name__})
    return None


def _case(kernel: KernelLayer, bound: Bound, call: LayerCall, reference: fx.GraphModule, autocast: torch.dtype | None) -> Case:
    nodes = external_inputs(call)
    places = {node: position for position, node in enumerate(nodes)}
    passed = {position: places[node] for position, node in enumerate(call.outputs) if node not in call.inside}
    inputs, outputs = tuple(map(example, nodes)), tuple(map(example, call.outputs))
    return Case(kernel, bound, call.key, inputs, outputs, passed, without_metadata(reference), torch.device(_device(call)), autocast)


# --- keys and words ----------------------------------------------------------------------------------------------------------------------


def _device(call: LayerCall) -> str:
    """The type of the device that the call is on; empty if it has no tensor."""
    return next((value.device.type for value in map(example, call.marked_inputs) if isinstance(value, torch.Tensor)), "")


def _training(call: LayerCall, request: Request) -> bool:
    return bool(call.site.training) or (request.mode is not None and Mode.TRAINING in request.mode)


def _mode(call: LayerCall, request: Request) -> Mode:
    mode = request.mode or (Mode.TRAINING if call.site.training else Mode.INFERENCE)
    return mode | Mode.TORCH_COMPILE if (request.compiled or request.declared) else mode


def _metadata(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return repr(value)
    sizes = [_size(size) for size in value.shape]
    # The stride of a dimension of size 1 is never used, and kernels differ in what they put there.
    strides = tuple(_size(stride) for size, stride in zip(sizes, value.stride(), strict=True) if size != 1)
    return (value.dtype, value.device, value.requires_grad, tuple(sizes), strides)


def _size(size: Any) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else size
