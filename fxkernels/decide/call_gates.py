"""What a call itself is asked, before there is a candidate."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch

from ..mapping import MAPPING, KernelMapping, MappingEntry
from ..mode import Mode
from ..options import Options
from ..passes.example_values import example
from ..passes.gate import Gate, GateResult
from ..passes.layer_call import LayerCall
from ..passes.miss import Miss
from ..passes.reference import form
from ..passes.region import REGION, only_computes, why_not_replaceable
from ..target import Target
from .decision_cache import DecisionCache

FILTER = Gate("filter", "call", ("excluded",))
"""Does the user want a kernel for it?"""

ANNOTATION = Gate("annotation", "call", ("forward_overridden", "condition_false"))
"""Is the forward the one that was annotated, and does the annotation's condition hold?"""

DEVICE = Gate("device", "form", ("no_device",))
"""Where does it run?"""


@dataclass
class CallInQuestion:
    """A call on its way through its gates, with what they find out.

    Args:
        call: The call.
        options: What the user asked for, with the mapping that is in force.
        cache: What is known of kernels.
        only_computes: By structure, whether a region's operations neither write nor draw random numbers.
        conflict: Why its region cannot be replaced beside the calls that are rewritten already, if it cannot.
        structure: What `passes.reference.form` says of the call.
        target: What kernels are chosen for.
        entries: What the mapping has for it, best first.
    """

    call: LayerCall
    options: Options
    cache: DecisionCache
    only_computes: dict[Hashable, bool]
    conflict: Miss | None = None
    structure: Hashable = None
    target: Target | None = None
    entries: tuple[MappingEntry, ...] = field(default=())

    @property
    def mapping(self) -> KernelMapping:
        """The mapping in force."""
        assert self.options.mapping is not None
        return self.options.mapping


Question = Callable[[CallInQuestion], GateResult | None]
"""Asks one gate. None is no answer: there is nothing to be asked of this call."""


def is_wanted(this: CallInQuestion) -> GateResult:
    """The user's globs of module paths."""
    path, options = this.call.site.path, this.options
    if any(fnmatch.fnmatchcase(path, glob) for glob in options.exclude):
        return FILTER.failed(Miss("excluded", "the path matches exclude="))
    if options.only and not any(fnmatch.fnmatchcase(path, glob) for glob in options.only):
        return FILTER.failed(Miss("excluded", "the path matches none of only="))
    return FILTER.passed()


def is_the_annotated_one(this: CallInQuestion) -> GateResult:
    """The forward is the one that was annotated, and the annotation's condition holds."""
    site, origin = this.call.site, this.call.site.origin
    if origin.overridden:
        return ANNOTATION.failed(Miss("forward_overridden", "{layer} overrides the annotated forward", {"layer": site.layer}))
    if origin.condition is False:
        return ANNOTATION.failed(Miss("condition_false", "the condition given with the annotation is false for this layer"))
    return ANNOTATION.passed()


def may_be_replaced(this: CallInQuestion) -> GateResult | None:
    """The region of the call, see `passes.region`. Of a call that no kernel is mapped to, the arguments are not captured."""
    call = this.call
    if not call.site.arguments_known:
        return None
    this.structure = structure = form(call) if call.complete else None
    if structure not in this.only_computes:
        this.only_computes[structure] = only_computes(call)
    return REGION.of(this.conflict or why_not_replaceable(call, only_computes=this.only_computes[structure]))


def is_on_a_device(this: CallInQuestion) -> GateResult | None:
    """The device of the call's tensors is known, and `device=` names no other one."""
    if not this.call.site.arguments_known:
        return None
    device, wanted = device_of(this.call), this.options.device
    if not device:
        return DEVICE.failed(Miss("no_device", "the call has no tensor that tells its device"))
    this.target = target = this.cache.target(device)
    if wanted is not None and target.device != wanted:
        data = {"device": target.device, "asked": wanted}
        return DEVICE.failed(Miss("no_device", "the call is on {device}, and kernels were asked for {asked} only", data))
    return DEVICE.passed(str(target))


def is_mapped(this: CallInQuestion) -> GateResult:
    """The mapping has kernels for the layer name, the target and the mode."""
    name = this.call.site.layer_name
    if this.target is None:
        return MAPPING.failed(this.mapping.without(name))
    entries = this.mapping.lookup(name, this.target, mode_of(this.call, this.options))
    if isinstance(entries, Miss):
        return MAPPING.failed(entries)
    this.entries = entries
    return MAPPING.passed()


def device_of(call: LayerCall) -> str:
    """Return the type of the device that a call is on; empty if it has no tensor."""
    return next((value.device.type for value in map(example, call.marked_inputs) if isinstance(value, torch.Tensor)), "")


def mode_of(call: LayerCall, options: Options) -> Mode:
    """Return the mode for which the mapping is consulted."""
    mode = options.kernel_mode or (Mode.TRAINING if call.site.training else Mode.INFERENCE)
    return mode | Mode.TORCH_COMPILE if (options.compiled or options.declared) else mode
