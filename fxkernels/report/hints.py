"""The smallest change after which a missed call would match, as a phrase that follows "it would match"."""

from __future__ import annotations

import difflib
from typing import Any

from ..passes.miss import Miss
from .model import CallReport

_PHRASES: dict[str, str] = {
    "forward_overridden": "if its class had a layer name of its own: it overrides the forward that was annotated",
    "condition_false": "if condition=, which was given with the annotation, were true for this layer",
    "graph_break": "without the graph break inside it: torch.compile(fullgraph=True) shows where that is",
    "mutation": "if the layer returned a new tensor instead of writing into {target}",
    "random": "without random numbers; in eval mode dropout draws none",
    "escape": "if {node} left the layer only as its output",
    "state": "if {node} were an argument of the layer, or one of its parameters or buffers",
    "opaque_argument": "without the {kind} as argument {place}",
    "no_device": "with a kernel mapped for {device}",
    "capability": "on a device of capability {mapped}, or with a kernel mapped for {capability}",
    "no_mode": "with a kernel mapped for mode {mode}",
    "no_variant": "with another version of the repository, or with a torch that it has a build for",
    "digest": "with the files that were locked or published; `fxkernels verify` compares them",
    "load_error": "if its code could be imported; the message says what it lacks",
    "signature": "with a kernel whose forward takes {reference}",
    "own_state": "with a kernel layer that has no {members}",
    "missing_attribute": "with a layer that has {missing}, or a kernel that does not read it",
    "no_backward": "in eval mode, or with backward='recompute'",
    "not_compilable": "with opaque=True, which runs it as an operator of its own",
    "rank": "with as many dimensions as the kernel takes",
    "layout": "with contiguous inputs, as .contiguous() makes them",
    "dtype": "with its inputs in a dtype that the kernel takes",
    "shape": "with sizes that the kernel takes",
    "dynamic_shape": "with that size static: torch.compile(dynamic=False), or without mark_dynamic",
    "tensor_subclass": "with plain tensors instead of the {kind}",
    "numerics": "with a version of the kernel that computes what the layer computes",
    "gradient": "in eval mode, or with backward='recompute', which takes the layer's own gradient",
    "mutates_input": "with a version of the kernel that leaves its inputs alone",
    "unprobed": "with verify='probe', which uses what cannot be probed and says so",
    "timeout": "with a version of the kernel that answers in time",
    "crash": "with a version of the kernel that does not crash",
}


def hint_for(miss: Miss, call: CallReport) -> str:
    """Return the smallest change that a miss names, or the usual one for its code, as a phrase; empty if there is none to recommend.

    Args:
        miss: Why the call, or a candidate for it, was turned away.
        call: The call.

    Example:
        >>> hint_for(Miss("no_backward", "..."), call)
        "in eval mode, or with backward='recompute'"
    """
    named = miss.data.get("change")
    if named:
        return str(named)
    match miss.code:
        case "no_mapping":
            return _map_a_kernel(miss, call)
        case "excluded":
            return _not_excluded(miss, call)
        case "not_captured":
            return _capture(str(miss.data.get("reason", "")))
        case "untrusted" | "offline":
            return _fetch(miss)
        case "escape" if miss.data.get("user") == "output":
            return f"{_PHRASES['escape'].format_map(miss.data)}, or with drop_outputs={call.layer_name!r} if nothing reads it"
        case "no_device" if "asked" in miss.data:
            return "with device={device!r}, or without device=".format(**miss.data)
    return _PHRASES.get(miss.code, "").format_map(_Known(miss.data))


def _map_a_kernel(miss: Miss, call: CallReport) -> str:
    mapped = [name.strip() for name in str(miss.data.get("mapped", "")).split(",")]
    near = difflib.get_close_matches(call.layer_name, mapped, n=1)
    similar = f"; the mapping has {near[0]!r}" if near else ""
    return f"with a kernel mapped to {call.layer_name!r}{similar}"


def _not_excluded(miss: Miss, call: CallReport) -> str:
    if "only=" in miss.template:
        return f"with a glob such as {call.path!r} in only="
    return f"without the glob in exclude= that {call.path} matches" if "exclude=" in miss.template else ""


def _capture(reason: str) -> str:
    if "recompile limit" in reason:
        return "with torch._dynamo.config.recompile_limit raised, or with fewer different inputs"
    if "ended early" in reason:
        return "without that graph break: torch.compile(fullgraph=True) shows where it is"
    return "" if "serves it too" in reason else "if the model's forward called it"


def _fetch(miss: Miss) -> str:
    if miss.code == "offline":
        return "once its files are in the cache: `fxkernels download` fetches them"
    return "with trust_remote_code=[...] naming its repository, if you trust its code"


class _Known(dict[str, Any]):
    """A miss that was read from a file, or written by another version, may lack a field."""

    def __missing__(self, key: str) -> str:
        return f"the {key}"
