"""The layer calls of a symbolically captured graph, and their rewriting."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from ..annotate import annotated_forward, layer_name_of
from ..kernels.signature import forward_signature, kernel_arguments
from .annotated_functions import AnnotatedFunction
from .call_gate import CallGate, Keeper
from .captured_module import CapturedModule, View
from .kernel_forward import FunctionLayer
from .rewritten_layer import KernelChoice, attach_gate, rewrite_in_place


@dataclass(frozen=True, slots=True, eq=False)
class SymbolicCall:
    """One call of an annotated layer or function in a symbolically captured graph.

    Args:
        node: The node of the call: a `call_module` of a layer, a `call_function` of a function.
        path: Module path of the layer; for a function that of its caller and the layer name.
        index: How many calls of the same path precede it.
        layer_name: The name that the annotation gives.
        layer: The layer, or None for a function.
        function: The annotated function, or None for a layer.
        owner: Path of the module whose forward makes the call; "" is the model itself.
    """

    node: fx.Node
    path: str
    index: int
    layer_name: str
    layer: nn.Module | None
    function: Callable[..., Any] | None
    owner: str

    @property
    def key(self) -> str:
        """The call's name in reports, e.g. ``model.layers.3.norm#0``."""
        return f"{self.path}#{self.index}"

    @property
    def signature(self) -> inspect.Signature:
        """The signature of the layer's forward without self, or of the function."""
        if self.layer is not None:
            return forward_signature(type(self.layer))
        function = self.function.module.forward if isinstance(self.function, AnnotatedFunction) else self.function
        assert function is not None
        signature = inspect.signature(function)
        return signature


def layer_calls(module: fx.GraphModule) -> tuple[SymbolicCall, ...]:
    """Return the layer calls of a captured graph in order. Calls that were rewritten are none any more."""
    calls: list[SymbolicCall] = []
    counts: dict[str, int] = {}
    for node in module.graph.nodes:
        layer = module.get_submodule(node.target) if node.op == "call_module" else None
        function = node.target if node.op == "call_function" and _is_annotated(node.target) else None
        subject = layer if layer is not None and annotated_forward(layer) is not None else function
        if subject is None:
            continue
        layer_name = _layer_name(subject)
        owner = _owner(node)
        path = node.target if function is None else f"{owner}.{layer_name}" if owner else layer_name
        index = counts[path] = counts.get(path, -1) + 1
        calls.append(SymbolicCall(node, path, index, layer_name, None if function is not None else layer, function, owner))
    return tuple(calls)


def rewrite_calls(module: CapturedModule, choices: Mapping[str, KernelChoice], keeper: Keeper | None = None) -> None:
    """Have calls of a captured graph run kernels. The choices are complete: what is not among them stays as it is.

    A layer whose calls are all decided alike is rewritten where it stands, and so wherever else it is referred to. If its calls are decided
    differently, it stays as it is and each rewritten call gets a second object over the layer's state, outside the submodules. Either way
    every state-dict key stays, and a call follows the training flag of the layer at its path. A function's call becomes the call of a layer
    without state below the module that makes it.

    Args:
        module: A graph module of `trace_symbolically`.
        choices: By `SymbolicCall.key`.
        keeper: Who decides what runs for each form of call, within what the choices allow; by default nobody is asked.

    Raises:
        KeyError: If a key is that of no call.
    """
    calls = layer_calls(module)
    unknown = choices.keys() - {call.key for call in calls}
    if unknown:
        raise KeyError(f"no such call: {', '.join(sorted(unknown))}")
    by_layer: dict[int, list[SymbolicCall]] = {}
    for call in calls:
        if call.layer is not None:
            by_layer.setdefault(id(call.layer), []).append(call)
        elif call.key in choices:
            _rewrite_function(module, call, choices[call.key], keeper)
    for of_one_layer in by_layer.values():
        _rewrite_layer(module, of_one_layer, choices, keeper)
    module.graph.lint()
    module.recompile()


def _rewrite_layer(module: CapturedModule, calls: list[SymbolicCall], choices: Mapping[str, KernelChoice], keeper: Keeper | None) -> None:
    first, layer = choices.get(calls[0].key), calls[0].layer
    assert layer is not None
    rewritten = tuple(call.key for call in calls if call.key in choices)
    gate = CallGate(keeper, rewritten) if keeper is not None and rewritten else None
    if all(choices.get(call.key) == first for call in calls):
        if first is not None:
            rewrite_in_place(layer, first, calls[0].path, gate)
        return
    if gate is not None:
        attach_gate(layer, gate)
    for call in calls:
        choice = choices.get(call.key)
        if choice is not None:
            call.node.target = module.add_view(f"{call.path.replace('.', '_')}_call_{call.index}", View(call.path, choice))


def _rewrite_function(module: CapturedModule, call: SymbolicCall, choice: KernelChoice, keeper: Keeper | None) -> None:
    function, node = call.function, call.node
    assert function is not None
    owner = module.get_submodule(call.owner)
    layer = FunctionLayer(function, owner.training)
    # Containers are iterated over by user code, which expects its own modules in them.
    home = "" if isinstance(owner, nn.Sequential | nn.ModuleList | nn.ModuleDict) else call.owner
    parent = module.get_submodule(home)
    wanted = name = getattr(function, "__name__", call.layer_name)
    number = 0
    while hasattr(parent, name):
        number += 1
        name = f"{wanted}_{number}"
    parent._modules[name] = layer
    rewrite_in_place(layer, choice, call.path, CallGate(keeper, (call.key,)) if keeper is not None else None)
    # The kernel may name its arguments differently, so they go by position. The node itself stays, with its name, place and metadata.
    args, kwargs = kernel_arguments(call.signature, call.signature, node.args, node.kwargs)
    node.op, node.target = "call_module", f"{home}.{name}" if home else name
    node.args, node.kwargs = args, kwargs


def _is_annotated(target: Any) -> bool:
    return isinstance(target, AnnotatedFunction) or (inspect.isfunction(target) and annotated_forward(target) is not None)


def _layer_name(subject: Any) -> str:
    return str(layer_name_of(subject.module if isinstance(subject, AnnotatedFunction) else subject))


def _owner(node: fx.Node) -> str:
    """The module that was being traced when the node was made. A leaf is on the stack itself."""
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    if node.op == "call_module" and stack and stack[-1] == node.target:
        stack.pop()
    return stack[-1] if stack else ""
