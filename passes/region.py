"""The gate of a region: may these nodes be taken out of the graph and one call put in their place?

Each function answers one question with a `Miss` or None. What a value *is* (its storage, its sizes) is read from the example value that
capture left in `node.meta["example_value"]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import sympy
import torch
from torch import fx

from .effects import draws_random_numbers, written_by
from .example_values import example, storage_of
from .gate import Gate
from .layer_call import LayerCall
from .miss import Miss
from .placement import is_convex, stays_the_same_in_one_place

REGION = Gate("region", "call", ("graph_break", "mutation", "random", "escape", "output_metadata", "state", "conflict"))
"""May a kernel take the region's place?"""


def ends_in_this_graph(call: LayerCall) -> Miss | None:
    """The whole call must be in one graph."""
    if call.complete:
        return None
    return Miss("graph_break", "the call begins in this graph and ends in another one")


def mutates_nothing_outside(call: LayerCall) -> Miss | None:
    """No node may write into memory that exists outside of the region."""
    outside: set[int] | None = None
    for node in _computing(call):
        for target in written_by(node):
            if outside is None:
                outside = _storages((*call.outside_values, *(node for node in call.region if node.op == "get_attr")))
            value = example(target)
            if not isinstance(value, torch.Tensor) or storage_of(value) in outside:
                return Miss(
                    "mutation", "{node} writes into {target}, which exists outside of the call", {"node": node.name, "target": target.name}
                )
    return None


def draws_no_random_numbers(call: LayerCall) -> Miss | None:
    """A kernel that draws other random numbers, or none, is another function."""
    for node in _computing(call):
        if draws_random_numbers(node):
            return Miss("random", "{node} draws random numbers", {"node": node.name})
    return None


def escapes_only_as_output(call: LayerCall) -> Miss | None:
    """No value of the region may be used outside, except the call's output."""
    inside, outputs = call.inside, frozenset(call.outputs)
    for node in call.region:
        if node in outputs:
            continue
        for user in node.users:
            if user not in inside:
                return Miss(
                    "escape", "{node} is computed inside the call and used outside by {user}", {"node": node.name, "user": user.name}
                )
    return None


def returns_a_new_tensor(call: LayerCall) -> Miss | None:
    """The output must be computed by the region; an output that shares memory with an input would stop doing so."""
    computed = call.computed_outputs
    if not computed:
        return Miss("output_metadata", "the call returns no tensor that it computed")
    outside: set[int] | None = None
    for node in computed:
        value = example(node)
        if not isinstance(value, torch.Tensor):
            continue
        if outside is None:
            outside = _storages(call.marked_inputs)
        if storage_of(value) in outside:
            return Miss("output_metadata", "the output {node} is a view of an input; a kernel's would not be", {"node": node.name})
    return None


def reads_only_what_is_marked(call: LayerCall) -> Miss | None:
    """The region's inputs must be the marked arguments, the layer's tensors, and sizes of those."""
    marked = frozenset(call.marked_inputs)
    symbols: frozenset[sympy.Symbol] | None = None
    for node in call.outside_values:
        if node in marked:
            continue
        value = example(node)
        if isinstance(value, torch.SymInt):
            if symbols is None:
                symbols = frozenset().union(*(_symbols(example(n)) for n in call.marked_inputs))
            if value.node.expr.free_symbols <= symbols:
                continue
        return Miss("state", "it reads {node}, which is neither an argument nor a tensor of the layer", {"node": node.name})
    return None


QUESTIONS: tuple[Callable[[LayerCall], Miss | None], ...] = (
    ends_in_this_graph,
    mutates_nothing_outside,
    draws_no_random_numbers,
    escapes_only_as_output,
    returns_a_new_tensor,
    reads_only_what_is_marked,
    is_convex,
    stays_the_same_in_one_place,
)
"""What the gate asks of a region, in order."""


def only_computes(call: LayerCall) -> bool:
    """Whether no operation of the region writes or draws anything, so that two questions need not be asked: equal for one `structure`."""
    return not any(draws_random_numbers(node) or written_by(node) for node in _computing(call))


def why_not_replaceable(call: LayerCall, *, only_computes: bool = False) -> Miss | None:
    """Return the first miss of the region, or None if a kernel may take the region's place.

    Args:
        call: A layer call.
        only_computes: What `only_computes` has said of the call, or of another one of the same structure.
    """
    for ask in QUESTIONS:
        if only_computes and ask in (mutates_nothing_outside, draws_no_random_numbers):
            continue
        miss = ask(call)
        if miss is not None:
            return miss
    return None


def external_inputs(call: LayerCall) -> tuple[fx.Node, ...]:
    """Marked inputs first, then whatever else the region reads (sizes, as `reads_only_what_is_marked` has checked)."""
    return tuple(dict.fromkeys((*call.marked_inputs, *call.outside_values)))


def _computing(call: LayerCall) -> Iterator[fx.Node]:
    """The region's operations, and those of graphs nested in it (bodies of higher-order operators such as checkpointing)."""
    pending: list[Iterable[fx.Node]] = [call.region]
    while pending:
        for node in pending.pop():
            if node.op in ("call_function", "call_method"):
                yield node
            elif node.op == "get_attr":
                body = getattr(node.graph.owning_module, str(node.target), None)
                if isinstance(body, fx.GraphModule):
                    pending.append(body.graph.nodes)


def _storages(nodes: Iterable[fx.Node]) -> set[int]:
    return {storage_of(value) for value in map(example, nodes) if isinstance(value, torch.Tensor)}


def _symbols(value: Any) -> frozenset[sympy.Symbol]:
    if isinstance(value, torch.SymInt):
        return frozenset(value.node.expr.free_symbols)
    if not isinstance(value, torch.Tensor):
        return frozenset()
    sizes = (*value.shape, *value.stride(), value.storage_offset())
    return frozenset().union(*(s.node.expr.free_symbols for s in sizes if isinstance(s, torch.SymInt)))
