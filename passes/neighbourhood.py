"""A layer call with the operations around it that a compiler might fuse with it: what has to be timed to know what a kernel is worth.

A kernel ends fusion at its edges. Timed alone it would be compared with code that the compiler never writes: it would have put the residual
addition before a norm, or the activation after it, into the same loop.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import fx

from .effects import draws_random_numbers, is_operator, name_of, written_by
from .example_values import example
from .layer_call import LayerCall
from .plan import Replacement
from .reference import structure_of
from .region import external_inputs

LIMIT = 12
"""How many operations before a call, and how many after it, belong to its neighbourhood at most."""

_FAR = 100
"""How many operations are looked at to see whether one value is computed from another."""

# What is no pointwise operation and yet is fused, or costs nothing: views, casts, reductions, normalisations. What reads by an index from
# another tensor is not among them: it would be timed on random indices, which may lie outside of it.
_FUSED = frozenset(
    "to type float half bfloat16 double contiguous clone view reshape view_as transpose permute t T mT swapaxes movedim unsqueeze squeeze "
    "flatten unflatten expand expand_as repeat chunk split narrow select unbind cat concat stack getitem "
    "mean sum amax amin max min var std norm softmax log_softmax logsumexp layer_norm rms_norm normalize pad glu cumsum".split()
)
# What writes a value into memory that is there. A compiler computes it in the loop that writes it: new keys for a cache of keys, say.
_STORES = frozenset("copy_ index_copy_ index_put_ scatter_ setitem".split())
_OPERATORS = {"truediv": "div", "and_": "bitwise_and", "or_": "bitwise_or", "xor": "bitwise_xor", "matmul": "", "pos": "positive"}


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """A call and what is around it.

    Args:
        call: The call.
        before: Operations that lead to its inputs, in the order of the graph.
        after: Operations that use its outputs, in the order of the graph.
        inputs: The graph values from outside that all of them read.
        outputs: Their values that are used outside.
    """

    call: LayerCall
    before: tuple[fx.Node, ...]
    after: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]

    @property
    def structure(self) -> Hashable:
        """Equal for two neighbourhoods exactly if they compute the same function of their inputs; see `structure_of`."""
        return structure_of((*self.before, *self.call.region, *self.after), self.inputs, self.outputs), len(self.before)

    def graph(self, owner: fx.GraphModule, replacements: Mapping[LayerCall, Replacement] = MappingProxyType({})) -> fx.GraphModule:
        """Return it as a module from its inputs to a tuple of its outputs.

        Args:
            owner: The module whose graph has the call.
            replacements: What takes the place of the call's region, or of the regions of calls inside it.
        """
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for number, node in enumerate(self.inputs):
            copies[node] = graph.placeholder(f"input_{number}")  # a name of the model's would tell equal neighbourhoods apart
        _copy(graph, self.before, copies)
        _copy(graph, self.call.region, copies, replacements)
        _copy(graph, self.after, copies)
        graph.output(tuple(copies[node] for node in self.outputs))
        return fx.GraphModule(owner, graph, class_name="Neighbourhood")


class Neighbours:
    """Finds the neighbourhoods of the calls of one graph.

    Args:
        graph: The graph, before it is edited.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._positions = {node: position for position, node in enumerate(graph.nodes)}

    def of(self, call: LayerCall) -> Neighbourhood:
        """Return the neighbourhood of a call whose region is replaceable."""
        before = self._before(call)
        after = self._after(call, before)
        operations = (*before, *call.region, *after)
        inside = frozenset(operations)
        read = (*external_inputs(call), *(node for op in (*before, *after) for node in op.all_input_nodes))
        inputs = tuple(dict.fromkeys(node for node in read if node not in inside))
        outputs = tuple(node for node in operations if _is_tensor(node) and _is_used_outside(node, inside))
        if not outputs and not any(map(is_store, after)):
            outputs = call.outputs
        return Neighbourhood(call, before, after, inputs, outputs)

    def _before(self, call: LayerCall) -> tuple[fx.Node, ...]:
        """Operations that lead to the call by no other way than through each other. A residual stream also leads to it through the layers
        that it feeds, and is in memory by then."""
        found: set[fx.Node] = set()
        read = set(external_inputs(call))
        refused: set[fx.Node] = set()
        while len(found) < LIMIT and (rest := read - found - refused):
            node = max(rest, key=self._positions.__getitem__)
            others = (read | set(node.all_input_nodes)) - found - {node}
            if may_be_fused(node) and not self._comes_from(others, {node}):
                found.add(node)
                read.update(node.all_input_nodes)
            else:
                refused.add(node)
        return self._sorted(_self_contained(found))

    def _after(self, call: LayerCall, before: tuple[fx.Node, ...]) -> tuple[fx.Node, ...]:
        """Operations that use the call's outputs, and nothing else that is computed from them: that is never in one loop with the call."""
        found: set[fx.Node] = set()
        inside = {*before, *call.inside}
        pending = {user for node in call.outputs if node in call.inside for user in node.users if user not in call.inside}
        while pending and len(found) < LIMIT:
            node = min(pending, key=self._positions.__getitem__)
            pending.remove(node)
            others = [n for n in node.all_input_nodes if n not in found and n not in inside]
            fits = may_be_fused(node) or (is_store(node) and node.all_input_nodes[0] in others)
            if fits and all(map(_can_be_input, others)) and not self._comes_from(others, inside):
                found.add(node)
                pending.update(node.users)
        return self._sorted(found)

    def _comes_from(self, values: Iterable[fx.Node], sources: Collection[fx.Node]) -> bool:
        """Whether one of the values is computed from one of the sources, or may be: nobody looks far."""
        first = min(map(self._positions.__getitem__, sources), default=0)
        pending = [node for node in values if self._positions[node] > first]
        seen: set[fx.Node] = set()
        while pending:
            node = pending.pop()
            if node in sources or len(seen) > _FAR:
                return True
            if node not in seen:
                seen.add(node)
                pending += [n for n in node.all_input_nodes if self._positions[n] >= first]
        return False

    def _sorted(self, nodes: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
        return tuple(sorted(nodes, key=self._positions.__getitem__))


def may_be_fused(node: fx.Node) -> bool:
    """Whether a node is an operation that a compiler may put into one loop with others: no matrix product, nothing that writes or draws."""
    if node.op not in ("call_function", "call_method") or not _has_tensors(node):
        return False
    if is_operator(node.target):
        name = str(getattr(node.target, "_schema", node.target)).partition("(")[0].rpartition("::")[2].partition(".")[0]
    else:
        name = name_of(node)
        if getattr(node.target, "__module__", None) in ("_operator", "operator"):
            name = _OPERATORS.get(name, name)
    if name == "getitem" and len(node.all_input_nodes) > 1:
        return False
    return (name in _FUSED or _is_pointwise(name)) and not written_by(node) and not draws_random_numbers(node)


def is_store(node: fx.Node) -> bool:
    """Whether a node does nothing but write a value into a tensor, at places that are fixed or given by numbers, and no gradient flows."""
    if node.op not in ("call_function", "call_method") or name_of(node) not in _STORES:
        return False
    values = [example(n) for n in node.all_input_nodes]
    if written_by(node) != tuple(node.all_input_nodes[:1]) or not all(map(_is_plain, values)):
        return False
    # A mask would say in how many places, which no compiler knows.
    return not any(value.requires_grad or value.dtype is torch.bool for value in values)


@functools.cache
def _is_pointwise(name: str) -> bool:
    packet = getattr(torch.ops.aten, name, None) if name.isidentifier() and not name.startswith("__") else None
    if packet is None or not hasattr(packet, "overloads"):
        return False
    return any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads())


def _self_contained(nodes: set[fx.Node]) -> set[fx.Node]:
    """Without the nodes that read parts of a value that is not among them, such as of a tuple."""
    kept = set(nodes)
    while lost := {node for node in kept if any(n not in kept and not _can_be_input(n) for n in node.all_input_nodes)}:
        kept -= lost
    return kept


def _can_be_input(node: fx.Node) -> bool:
    return node.op != "get_attr" and (_is_plain(example(node)) or isinstance(example(node), torch.SymInt | torch.SymFloat | int | float))


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(example(node), torch.Tensor)


def _has_tensors(node: fx.Node) -> bool:
    value = example(node)
    return _is_plain(value) or (isinstance(value, tuple | list) and bool(value) and all(map(_is_plain, value)))


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor of which a random one can be made: no wrapper around others, such as a DTensor, and not sparse."""
    return isinstance(value, torch.Tensor) and value.layout is torch.strided and not hasattr(value, "__tensor_flatten__")


def _is_used_outside(node: fx.Node, inside: frozenset[fx.Node]) -> bool:
    return any(user not in inside for user in node.users)


def _copy(
    graph: fx.Graph,
    nodes: Iterable[fx.Node],
    copies: dict[fx.Node, fx.Node],
    replacements: Mapping[LayerCall, Replacement] = MappingProxyType({}),
) -> None:
    """Copy the nodes; a kernel is put where the last operation of the region that it replaces is."""
    replaced = frozenset[fx.Node]().union(*(call.inside for call in replacements))
    last = {call.last: call for call in replacements}
    for node in nodes:
        if node in last:
            _put(graph, replacements[last[node]], last[node], copies)
        elif node not in replaced:
            copies[node] = graph.node_copy(node, copies.__getitem__)


def _put(graph: fx.Graph, replacement: Replacement, call: LayerCall, copies: dict[fx.Node, fx.Node]) -> None:
    kernel = graph.call_function(replacement.target, tuple(copies[node] for node in replacement.inputs))
    for position, node in enumerate(call.outputs):
        if node in call.inside:
            copies[node] = kernel if len(call.outputs) == 1 else graph.call_function(operator.getitem, (kernel, position))
