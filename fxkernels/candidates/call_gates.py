"""The gates of a call itself, before there is a candidate: each one a question, answered by a miss or by None."""

from __future__ import annotations

import fnmatch

import torch

from ..capture import _torch
from ..kernels.layer import KernelLayer
from ..kernels.lowering.lowering import Backward
from ..kernels.origin import LayerOrigin
from ..mapping import KernelMapping
from ..mode import Mode
from ..passes.example_values import example
from ..passes.layer_call import LayerCall
from ..passes.miss import Miss
from ..target import Target
from .request import Request


def is_excluded(call: LayerCall, request: Request) -> Miss | None:
    """The user's globs."""
    path = call.site.path
    if any(fnmatch.fnmatchcase(path, glob) for glob in request.exclude):
        return Miss("excluded", "the path matches exclude=")
    if request.only and not any(fnmatch.fnmatchcase(path, glob) for glob in request.only):
        return Miss("excluded", "the path matches none of only=")
    return None


def is_not_the_annotated_one(call: LayerCall) -> Miss | None:
    """The forward is the one that was annotated, and the annotation's condition holds."""
    origin: LayerOrigin = call.site.origin
    if origin.overridden:
        return Miss("forward_overridden", "{layer} overrides the annotated forward", {"layer": call.site.layer})
    if origin.condition is False:
        return Miss("condition_false", "the condition given with the annotation is false for this layer")
    return None


def is_not_mapped(call: LayerCall, mapping: KernelMapping) -> Miss | None:
    """Capture asked the mapping already: what it does not have was marked without its arguments."""
    if call.site.arguments_known:
        return None
    known = ", ".join(mapping.layer_names) or "nothing"
    data = {"layer": call.site.layer_name, "mapped": known}
    return Miss("no_mapping", "no kernel is mapped to layer name {layer!r}; mapped are: {mapped}", data)


def is_on_another_device(target: Target, request: Request) -> Miss | None:
    """`device=` names another one."""
    if request.device is None or target.device == request.device:
        return None
    data = {"device": target.device, "asked": request.device}
    return Miss("no_device", "the call is on {device}, and kernels were asked for {asked} only", data)


# --- of a candidate that is loaded --------------------------------------------------------------------------------------------------------


def supports_mode(kernel: KernelLayer, training: bool, declared: bool, backward: Backward = "fallback") -> Miss | None:
    """A kernel without a backward gives way in training mode; where declared support is asked for, the kernel must declare it."""
    if training and not kernel.has_backward and backward == "fallback":
        return Miss("no_backward", "{kernel} has no backward and the layer is in training mode", {"kernel": kernel.identity})
    if declared and not kernel.can_torch_compile:
        return Miss("not_compilable", "{kernel} does not say that it supports torch.compile", {"kernel": kernel.identity})
    return None


def cannot_be_an_input(call: LayerCall) -> Miss | None:
    """Every argument can be handed to a kernel: a graph value or a constant, and no tensor of a foreign class."""
    origin: LayerOrigin = call.site.origin
    for place, kind in origin.opaque.items():
        return Miss("opaque_argument", "argument {place} is a {kind}, which cannot be an input of a graph", {"place": place, "kind": kind})
    for node in call.marked_inputs:
        if _torch.is_wrapper_subclass(example(node)):
            return Miss("tensor_subclass", "{node} is a {kind}", {"node": node.name, "kind": type(example(node)).__name__})
    return None


# --- facts about a call that they and the mapping ask for ---------------------------------------------------------------------------------


def device_of_call(call: LayerCall) -> str:
    """The type of the device that the call is on; empty if it has no tensor."""
    return next((value.device.type for value in map(example, call.marked_inputs) if isinstance(value, torch.Tensor)), "")


def is_training(call: LayerCall, request: Request) -> bool:
    """Whether the layer is in training mode, or the user says so."""
    return bool(call.site.training) or (request.mode is not None and Mode.TRAINING in request.mode)


def mode_of(call: LayerCall, request: Request) -> Mode:
    """The mode for which the mapping is consulted."""
    mode = request.mode or (Mode.TRAINING if call.site.training else Mode.INFERENCE)
    return mode | Mode.TORCH_COMPILE if (request.compiled or request.declared) else mode
