"""From mapping and target to a decision about one layer call: the candidates, and the gates each must pass."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from .capture import _torch
from .kernels.bound import Bound
from .kernels.layer import KernelLayer
from .kernels.loader import CallForm, KernelLoader
from .kernels.origin import LayerOrigin
from .mapping import KernelMapping
from .mode import Mode
from .passes.layer_call import LayerCall
from .passes.miss import Miss
from .passes.plan import Decision, Replacement
from .passes.reference import reference_of, structure
from .passes.region import example, external_inputs, why_not_replaceable
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
        only: Globs of module paths; where given, other calls are excluded.
        exclude: Globs of module paths that are excluded.
    """

    mapping: KernelMapping
    device: str | None = None
    mode: Mode | None = None
    compiled: bool = False
    declared: bool = False
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass
class Chooser:
    """Decides layer calls. Keeps what it has loaded, tried and built, so that the thirty-second identical layer costs little.

    Args:
        target_of: From a device type to the target.
    """

    target_of: Callable[[str], Target]
    loader: KernelLoader = field(default_factory=KernelLoader)
    _trials: dict[Hashable, Miss | None] = field(default_factory=dict)
    _references: dict[Hashable, fx.GraphModule] = field(default_factory=dict)

    def decide(self, call: LayerCall, request: Request, owner: fx.GraphModule) -> Decision:
        """Return the decision for one call, by itself."""
        early = _excluded(call, request) or _unannotated(call, request)
        if early is not None:
            return early
        miss = why_not_replaceable(call)
        if miss is not None:
            return Decision("missed", (miss,))
        target = self._target(call, request)
        if isinstance(target, Miss):
            return Decision("missed", (target,))
        entries = request.mapping.lookup(call.site.layer_name, target, _mode(call, request))
        if isinstance(entries, Miss):
            return Decision("missed", (entries,))
        misses: list[Miss] = []
        for entry in entries:
            kernel = self.loader.load(entry.repository, target)
            if isinstance(kernel, Miss):
                misses.append(kernel)
                continue
            admitted = self._admit(kernel, call, request)
            if isinstance(admitted, Miss):
                misses.append(admitted)
                continue
            return Decision("rewritten", tuple(misses), kernel, self._replacement(kernel, admitted, call, owner))
        return Decision("missed", tuple(misses))

    def _target(self, call: LayerCall, request: Request) -> Target | Miss:
        device = next((v.device.type for v in map(example, call.marked_inputs) if isinstance(v, torch.Tensor)), None)
        if device is None:
            return Miss("no_device", "the call has no tensor that tells its device")
        target = self.target_of(device)
        if request.device is not None and target.device != request.device:
            return Miss(
                "no_device",
                "the call is on {device}, and kernels were asked for {asked} only",
                {"device": target.device, "asked": request.device},
            )
        return target

    def _admit(self, kernel: KernelLayer, call: LayerCall, request: Request) -> Bound | Miss:
        """Ask the candidate's gates; return how the kernel is called if it passes them."""
        origin: LayerOrigin = call.site.origin
        attributes = origin.state.available if origin.state is not None else frozenset()
        form = CallForm(origin.reference, origin.signature, len(call.args), tuple(call.kwargs), attributes)
        miss = (
            self.loader.contract(kernel, form)
            or _opaque(origin)
            or supports_mode(kernel, _training(call, request), request.declared)
            or _subclass(call)
        )
        if miss is not None:
            return miss
        bound = Bound.of(kernel, call)
        return self._try(kernel, bound, call, request) or bound

    def _try(self, kernel: KernelLayer, bound: Bound, call: LayerCall, request: Request) -> Miss | None:
        """Run the kernel on fake tensors: whether a compiler could trace it, and what it returns."""
        inputs = tuple(map(example, external_inputs(call)))
        expected = tuple(map(example, call.outputs))
        arguments = (tuple(map(_metadata, inputs)), repr(bound.args), repr(bound.kwargs), call.site.training)
        key = (kernel.cls, request.compiled, bound.state, arguments, tuple(map(_metadata, expected)))
        if key not in self._trials:
            self._trials[key] = _trial(kernel, bound, inputs, expected, request)
        return self._trials[key]

    def _replacement(self, kernel: KernelLayer, bound: Bound, call: LayerCall, owner: fx.GraphModule) -> Replacement:
        key = structure(call)
        reference = self._references.get(key)
        if reference is None:
            reference = self._references[key] = reference_of(call, owner)
        differentiable = any(getattr(example(node), "requires_grad", False) for node in call.outputs)
        return Replacement(bound.kernel_call(kernel, call.key, reference, len(call.outputs), differentiable), external_inputs(call))


# --- gates, each one question ---------------------------------------------------------------------------------------------------------------


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


def supports_mode(kernel: KernelLayer, training: bool, declared: bool) -> Miss | None:
    """A kernel without a backward gives way in training mode; where declared support is asked for, the kernel must say that torch.compile can trace it."""
    if training and not kernel.has_backward:
        return Miss("no_backward", "{kernel} has no backward and the layer is in training mode", {"kernel": kernel.identity})
    if declared and not kernel.can_torch_compile:
        return Miss("not_compilable", "{kernel} does not say that it supports torch.compile", {"kernel": kernel.identity})
    return None


def _subclass(call: LayerCall) -> Miss | None:
    for node in call.marked_inputs:
        if _torch.is_wrapper_subclass(example(node)):
            return Miss("tensor_subclass", "{node} is a {kind}", {"node": node.name, "kind": type(example(node)).__name__})
    return None


def _trial(kernel: KernelLayer, bound: Bound, inputs: tuple[Any, ...], expected: tuple[Any, ...], request: Request) -> Miss | None:
    call = bound.kernel_call(kernel, "", _never, len(expected), differentiable=False, recompute=False)
    try:
        outputs = _torch.run_on_fakes(call, inputs)
    except Exception as error:  # whatever a kernel raises on tensors without data
        if not request.compiled:
            return None  # it runs as it is; nothing has to trace it
        cause = error.__cause__ or error
        lines = str(cause).strip().splitlines() or [""]
        data = {"kernel": kernel.identity, "error": f"{type(cause).__name__}: {lines[0]}"}
        return Miss("not_compilable", "{kernel} cannot be traced: {error}", data)
    results = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    for position, (result, reference) in enumerate(zip(results, expected, strict=True)):
        got, wanted = _metadata(result), _metadata(reference)
        if got != wanted:
            data = {"kernel": kernel.identity, "position": position, "got": _shown(result), "wanted": _shown(reference)}
            return Miss("output_metadata", "output {position} of {kernel} is {got}, the layer's is {wanted}", data)
    return None


def _never(*inputs: Any) -> Any:
    raise AssertionError("a trial computes no gradient")


# --- keys and words -------------------------------------------------------------------------------------------------------------------------


def _training(call: LayerCall, request: Request) -> bool:
    return bool(call.site.training) or (request.mode is not None and Mode.TRAINING in request.mode)


def _mode(call: LayerCall, request: Request) -> Mode:
    mode = request.mode or (Mode.TRAINING if call.site.training else Mode.INFERENCE)
    return mode | Mode.TORCH_COMPILE if (request.compiled or request.declared) else mode


def _metadata(value: Any) -> Hashable:
    if not isinstance(value, torch.Tensor):
        return repr(value)
    sizes = [_size(size) for size in value.shape]
    # The stride of a dimension of size 1 is never used, and kernels differ in what they put there.
    strides = tuple(_size(stride) for size, stride in zip(sizes, value.stride(), strict=True) if size != 1)
    return (value.dtype, value.device, tuple(sizes), strides)


def _size(size: Any) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else size


def _shown(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return repr(value)
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)} with strides {list(value.stride())} on {value.device}"
